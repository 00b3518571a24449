"""Which trainings need not be done: another one is the same to the last bit.

Trainings of one search differ in their points, lengths and seeds, and in nothing else.

- The same point, length and seed: the same config, so the same training.
- Another alpha, all else equal: alpha is a bound of ``|g|``, with no effect on a training in which no bounded layer's
  scale came up to it. Such a training is that of every alpha above the largest scale that it had.

So of trainings that differ in alpha alone the largest is started first, and another one once it is known to differ: the
trainings that remain are as few as possible, and with several workers some of them start later.

A search without a seed repeats nothing. On hardware whose trainings do not repeat bit by bit, "the same" means up to
that difference, as for a training that is done twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, is_finished
from mmfixnorm.search.trial.folder import TrialResult
from mmfixnorm.search.trial.forks import is_below

#: A training without its alpha: point, length and seed.
ButAlpha: TypeAlias = tuple[Point, float, int]


class KnownTrainings:
    """The finished trainings of a search, to be asked for one that is the same as another.

    Args:
        problem (SearchProblem): With ``search.reuse_trainings=False`` nothing is the same.
        attempts (Iterable[Attempt]): What has ended so far.
    """

    def __init__(self, problem: SearchProblem, attempts: Iterable[Attempt]) -> None:
        self._problem = problem
        self._by_config: defaultdict[ButAlpha, list[Attempt]] = defaultdict(list)
        self._has_scales = False
        for attempt in attempts:
            self.add(attempt)

    def add(self, attempt: Attempt) -> None:
        """Take in an attempt that has ended; only one that has finished its own training counts."""
        config = self.but_alpha(attempt.spec)
        if config is not None and is_finished(attempt) and not attempt.result.same_as:
            self._by_config[config].append(attempt)
            self._has_scales |= attempt.result.largest_scale is not None

    def same_as(self, spec: Spec) -> Attempt | None:
        """Return the training that is the one of ``spec``; None if there is none."""
        config = self.but_alpha(spec)
        if config is None:
            return None
        return next((a for a in self._by_config.get(config, ()) if _has_same_alpha(a, spec.point)), None)

    def in_order(self, specs: Sequence[Spec]) -> list[Spec]:
        """Return the trainings in the order in which to start them."""
        if not self._has_scales:
            return list(specs)
        first: dict[ButAlpha | None, int] = {}
        places = [first.setdefault(self.but_alpha(spec), i) for i, spec in enumerate(specs)]
        order = sorted(range(len(specs)), key=lambda i: (places[i], -(specs[i].point.alpha or 0.0)))
        return [specs[i] for i in order]

    def may_become_same(self, spec: Spec, running: Spec, largest_scale: float | None) -> bool:
        """Return whether a training that runs may turn out to be the one of ``spec``.

        Args:
            spec (Spec): A training that could be started.
            running (Spec): The one that runs.
            largest_scale (float, optional): What it has come up to so far; None if it has not said so.
        """
        config, alphas = self.but_alpha(spec), (spec.point.alpha, running.point.alpha)
        if config is None or config != self.but_alpha(running):
            return False
        if alphas[0] == alphas[1]:
            return True
        if not self._has_scales or self._meets_its_bound(spec) or self._meets_its_bound(running):
            return False  # where no training has told its scale, none will
        return largest_scale is None or is_below(largest_scale, alphas)

    def _meets_its_bound(self, spec: Spec) -> bool:
        """Return whether that is known from a training with a larger alpha, which it follows up to there."""
        alpha, config = spec.point.alpha, self.but_alpha(spec)
        if alpha is None or config is None:
            return False
        known = [(a.spec.point.alpha, a.result.largest_scale) for a in self._by_config.get(config, ())]
        return any(own is not None and own >= alpha and scale is not None and scale >= alpha for own, scale in known)

    def but_alpha(self, spec: Spec) -> ButAlpha | None:
        """Return what two trainings share that differ in alpha alone; None if no training is the same as another."""
        seed = self._problem.seed_of(spec)
        if seed is None or spec.is_ramp or not self._problem.settings.reuse_trainings:
            return None
        return replace(spec.point, alpha=None), spec.fraction, seed


def result_of(same: Attempt, spec: Spec, *, attempt: int) -> TrialResult:
    """Make the result of a training from the one that is the same."""
    key = same.spec.key
    message = f'the same training as {key}' + (f': {same.result.message}' if same.result.message else '')
    return replace(
        same.result,
        key=spec.key,
        attempt=attempt,
        same_as=key,
        message=message,
        seconds=0.0,
        built_alphas=[],
        forked_from='',
        forked_at=0,
        forked_part=0.0,
        fork_points=[],
    )


def _has_same_alpha(trained: Attempt, point: Point) -> bool:
    alphas = trained.spec.point.alpha, point.alpha
    if alphas[0] == alphas[1]:
        return True
    largest = trained.result.largest_scale
    return largest is not None and is_below(largest, alphas)
