"""Which trainings need not be done: another one is the same to the last bit.

Trainings of one search differ in their points, lengths and seeds, and in nothing else.

- The same point, length and seed: the same config, so the same training.
- Another alpha, all else equal: alpha is a bound of ``|g|``, with no effect on a training in which no bounded layer's
  scale came up to it. Such a training is that of every alpha above the largest scale that it had.

A search without a seed repeats nothing. On hardware whose trainings do not repeat bit by bit, "the same" means up to
that difference, as for a training that is done twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, is_finished
from mmfixnorm.search.trial.folder import TrialResult

# The largest scale is a quotient of two float32 numbers.
_ROUNDING = 1e-6
_ButAlpha: TypeAlias = tuple[Point, float, int]


class KnownTrainings:
    """The finished trainings of a search, to be asked for one that is the same as another.

    Args:
        problem (SearchProblem): With ``search.reuse_trainings=False`` nothing is the same.
        attempts (Iterable[Attempt]): What has ended so far.
    """

    def __init__(self, problem: SearchProblem, attempts: Iterable[Attempt]) -> None:
        self._problem = problem
        self._by_config: defaultdict[_ButAlpha, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            self.add(attempt)

    def add(self, attempt: Attempt) -> None:
        """Take in an attempt that has ended; only one that has finished its own training counts."""
        config = self._but_alpha(attempt.spec)
        if config is not None and is_finished(attempt) and not attempt.result.same_as:
            self._by_config[config].append(attempt)

    def same_as(self, spec: Spec) -> Attempt | None:
        """Return the training that is the one of ``spec``; None if there is none."""
        config = self._but_alpha(spec)
        if config is None:
            return None
        return next((a for a in self._by_config.get(config, ()) if _has_same_alpha(a, spec.point)), None)

    def is_repetition(self, spec: Spec, of: Spec) -> bool:
        """Return whether two trainings are of one config and one seed."""
        config = self._but_alpha(spec)
        return config is not None and config == self._but_alpha(of) and spec.point == of.point

    def _but_alpha(self, spec: Spec) -> _ButAlpha | None:
        seed = self._problem.seed_of(spec)
        if seed is None or not self._problem.settings.reuse_trainings:
            return None
        return replace(spec.point, alpha=None), spec.fraction, seed


def result_of(same: Attempt, spec: Spec, *, attempt: int) -> TrialResult:
    """Make the result of a training from the one that is the same."""
    key = same.spec.key
    message = f'the same training as {key}' + (f': {same.result.message}' if same.result.message else '')
    return replace(
        same.result, key=spec.key, attempt=attempt, same_as=key, message=message, seconds=0.0, built_alphas=[]
    )


def _has_same_alpha(trained: Attempt, point: Point) -> bool:
    alphas = trained.spec.point.alpha, point.alpha
    if alphas[0] == alphas[1]:
        return True
    largest = trained.result.largest_scale
    return largest is not None and all(alpha is not None and alpha > largest * (1 + _ROUNDING) for alpha in alphas)
