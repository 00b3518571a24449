"""The checkpoints of the trials: those of closed trials are deleted, but for those that may win."""

from __future__ import annotations

from collections.abc import Sequence

from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, closed_trainings


class WeightKeeper:
    """Keeps the weights of the leading trial of each stage, in the end those of the winner; or all.

    A method may let the best of any stage win, whatever the value of another stage's best.

    Args:
        problem (SearchProblem): ``search.keep_weights`` and ``search.rule`` are its settings.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._deleted: set[str] = set()  # looked at once: a search can have thousands of folders

    def prune(self, attempts: Sequence[Attempt], winner: str | None = None) -> None:
        """Delete what is no longer needed, after these attempts.

        Args:
            attempts (Sequence[Attempt]): All attempts so far.
            winner (str, optional): Key of the winner, once there is one.
        """
        if self._problem.settings.keep_weights == 'all':
            return
        sign = 1 if self._problem.settings.rule == 'greater' else -1
        closed = [a for a in attempts if closed_trainings([a])]
        leading: dict[str, float] = {}
        for a in closed:
            if a.result.value is not None:
                leading[a.spec.stage] = max(leading.get(a.spec.stage, -float('inf')), sign * a.result.value)
        for a in closed:
            leads = a.result.value is not None and sign * a.result.value == leading[a.spec.stage]
            keep = leads if winner is None else a.spec.key == winner
            if keep or a.spec.key in self._deleted:
                continue
            for weights in (self._problem.trial_dir(a.spec.key) / 'run').glob('*.pth'):
                weights.unlink(missing_ok=True)
            self._deleted.add(a.spec.key)
