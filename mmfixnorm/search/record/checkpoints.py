"""Delete checkpoints of finished trials, except those that can still win."""

from __future__ import annotations

from collections.abc import Sequence

from mmfixnorm.search.methods.confirm import STAGE as CONFIRMATION
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, is_finished


class CheckpointPruner:
    """Keeps the checkpoints of the trials that can still win, in the end the winner's; or all.

    A method may let the best of any stage win, whatever the value of another stage's best; and new seeds
    (``search.confirm_seeds``) may let the runner-up win, whose weights are those of its training in the search.

    Args:
        problem (SearchProblem): ``search.keep_weights`` and ``search.rule`` are among its settings.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._deleted: set[str] = set()  # each folder is visited once: a search can have thousands

    def prune(self, attempts: Sequence[Attempt], winner: str | None = None) -> None:
        """Delete the checkpoints that are no longer needed after these attempts.

        Args:
            attempts (Sequence[Attempt]): All attempts so far.
            winner (str, optional): Key of the winner, once nothing can change it, more budget neither.
        """
        if self._problem.settings.keep_weights == 'all':
            return
        finished = [a for a in attempts if is_finished(a)]
        can_win = {a.spec.key for a in self._contenders(finished)} if winner is None else {winner}
        kept = {_folder(a) for a in finished if a.spec.key in can_win}
        for folder in {_folder(a) for a in finished} - kept - self._deleted:
            for checkpoint in (self._problem.trial_dir(folder) / 'run').glob('*.pth'):
                checkpoint.unlink(missing_ok=True)
            self._deleted.add(folder)

    def _contenders(self, finished: Sequence[Attempt]) -> list[Attempt]:
        settings = self._problem.settings
        if not settings.winner_has_best_value:
            return [*finished]
        stages: dict[str, list[tuple[float, Attempt]]] = {}
        for a in finished:
            if a.result.value is not None and a.spec.stage != CONFIRMATION:
                stage = '' if settings.stages_compete else a.spec.stage
                value = a.result.value if settings.rule == 'greater' else -a.result.value
                stages.setdefault(stage, []).append((value, a))
        contenders = []
        for valued in stages.values():
            best_of_points: dict[object, float] = {}
            for value, a in valued:
                best_of_points[a.spec.point] = max(value, best_of_points.get(a.spec.point, value))
            leading = sorted(best_of_points.values(), reverse=True)[: 2 if settings.confirm_seeds else 1]
            contenders += [a for value, a in valued if value >= leading[-1]]
        return contenders


def _folder(attempt: Attempt) -> str:
    """The trial whose training this is, which can be another one's."""
    return attempt.result.same_as or attempt.spec.key
