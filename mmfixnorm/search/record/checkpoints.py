"""Delete checkpoints of finished trials, except those that can still win."""

from __future__ import annotations

from collections.abc import Sequence

from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, is_finished


class CheckpointPruner:
    """Keeps the checkpoints of the leading trial of each stage, in the end the winner's; or all.

    A method may let the best of any stage win, whatever the value of another stage's best.

    Args:
        problem (SearchProblem): ``search.keep_weights`` and ``search.rule`` are its settings.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._deleted: set[str] = set()  # each folder is visited once: a search can have thousands

    def prune(self, attempts: Sequence[Attempt], winner: str | None = None) -> None:
        """Delete the checkpoints that are no longer needed after these attempts.

        Args:
            attempts (Sequence[Attempt]): All attempts so far.
            winner (str, optional): Key of the winner, once there is one.
        """
        if self._problem.settings.keep_weights == 'all':
            return
        sign = 1 if self._problem.settings.rule == 'greater' else -1
        finished = [a for a in attempts if is_finished(a)]
        leading: dict[str, float] = {}
        for a in finished:
            if a.result.value is not None:
                leading[a.spec.stage] = max(leading.get(a.spec.stage, -float('inf')), sign * a.result.value)
        kept, folders = set(), set()
        for a in finished:
            folder = a.result.same_as or a.spec.key  # that of the training, which can be another trial's
            folders.add(folder)
            leads = a.result.value is not None and sign * a.result.value == leading[a.spec.stage]
            may_win = leads or not self._problem.settings.winner_has_best_value
            if may_win if winner is None else a.spec.key == winner:
                kept.add(folder)
        for folder in folders - kept - self._deleted:
            for checkpoint in (self._problem.trial_dir(folder) / 'run').glob('*.pth'):
                checkpoint.unlink(missing_ok=True)
            self._deleted.add(folder)
