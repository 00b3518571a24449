"""Fewer trainings than Algorithm 4 by the same two priors, used further.

Accuracy is about unimodal in the learning rate, and the best learning rate of a shorter training bounds
that of a longer one from above; learning rate and alpha can be tuned apart. So:

1. ``short lr``: walk uphill over the learning rates in short trainings at the middle alpha. The walk
   starts with the three in the middle, continues where the best is at an end, and stops after the fall.
2. ``short alpha``: the same walk over the alphas at that learning rate.
3. ``full``: at full length the best short learning rate and the next lower one at the best alpha,
   together with the second-best alpha at the lower one, because short trainings can prefer another
   alpha than long ones; the walk continues downwards only. If the best learning rate and the best alpha
   were not trained together by then, they are.

The learning rates lie evenly on a log scale, ``lr_factor`` apart: the number of trainings of a walk
hardly grows with the range, so nothing is saved by a coarse grid.

Decided here:

- the winner is the best training of full length; a shorter one never wins;
- of equal values the lower learning rate, then the lower alpha is the better one;
- where everything tried diverged, the walk continues downwards; if it comes to the end that way, the search is
  stuck;
- with ``search.extend``, up to three more learning rates of the same spacing lie beyond each end of the range: a walk
  goes there as it does inside, unless another training has the value of the best, so that lr makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.numbers import tidy
from mmfixnorm.search.methods.base import (
    EXTENSIONS,
    Finished,
    Method,
    PlannedStage,
    Point,
    Proposed,
    Replay,
    Spec,
    Stage,
    StageKind,
    all_diverged,
    extension_note,
    make_stage,
    ranked,
    stands_alone,
)
from mmfixnorm.search.settings import SearchSettings

# Alphas that are trained at full length. On real tables one was worse, three no better: docs/tuning.md, "Measured".
_FINALISTS = 2


@dataclass(frozen=True)
class UnimodalFixNormSearch(SearchSettings):
    """Tuned FixNorm in fewer trainings than Algorithm 4, see the module's docstring.

    Args:
        lr_range (tuple[float, float] or str): ``(lr_min, lr_max)``, or ``'auto'``: measured first.
        lr_factor (float): Factor between neighbouring learning rates, above 1. It is rounded so that
            both ends of the range are among them.
        schedule_fractions (tuple[float, float]): Length of the short and of the long trainings, as fractions
            of the config's own schedule.
        alphas (list[float]): The alphas, in any order.
        extend (bool): Continue beyond an end of the range while the best learning rate lies there.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_factor``.
    """

    kind: ClassVar[str] = 'UnimodalFixNormSearch'

    lr_range: tuple[float, float] | str = (0.2, 3.2)
    lr_factor: float = 2.0
    schedule_fractions: tuple[float, ...] = (0.2, 1.0)
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    extend: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.boolean('extend', self.extend)
        self._set('lr_range', checks.lr_range(self.lr_range))
        rule = 'a finite number > 1'
        if checks.finite('lr_factor', self.lr_factor, rule) <= 1:
            raise checks.fail('lr_factor', rule, self.lr_factor)
        self._set('schedule_fractions', checks.fractions('schedule_fractions', self.schedule_fractions))
        if len(self.schedule_fractions) != 2:
            rule = 'a pair: the lengths of the short and of the long trainings'
            raise checks.fail('schedule_fractions', rule, self.schedule_fractions)
        self._set('alphas', checks.distinct_positives('alphas', self.alphas))

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.schedule_fractions


def replay(settings: UnimodalFixNormSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow the two walks in short trainings, then the one at full length."""
    del proposed
    course = _Course(settings, finished)
    stages: list[Stage] = []

    def so_far(*, is_over: bool = False, stuck: str = '') -> Replay:
        best = next((s.best for s in reversed(stages) if s.best), None)
        return Replay(tuple(stages), best, is_over, stuck, notes=tuple(course.notes))

    lr_walk = course.short_lrs()
    stages.append(course.stage('short lr', StageKind.LR, lr_walk))
    lr = course.first(lr_walk)
    if stages[-1].missing:
        return so_far()
    if lr is None:
        return so_far(stuck=all_diverged(settings, 'short lr', lr_walk))

    alpha_walk = course.short_alphas(lr)
    new = [s for s in alpha_walk if s not in lr_walk]
    if new:
        stages.append(course.stage('short alpha', StageKind.ALPHA, new))
        if stages[-1].missing:
            return so_far()

    full = course.full(lr, [s.point.alpha for s in course.ranked(alpha_walk)][:_FINALISTS])
    stages.append(course.stage('full', StageKind.GRID, full))
    if stages[-1].missing:
        return so_far()
    if stages[-1].best is None:
        return so_far(stuck=all_diverged(settings, 'full', full))
    return so_far(is_over=True)


def planned_stages(settings: UnimodalFixNormSearch) -> list[PlannedStage]:
    """List its stages, each with the trainings of the longest walk."""
    short, full = settings.schedule_fractions
    lrs, alphas = len(grid(settings)), len(settings.alphas)
    beyond = EXTENSIONS if settings.extend else 0
    if alphas == 1:
        return [
            PlannedStage('short lr', _longest_walk(lrs) + beyond, short),
            PlannedStage('full', lrs + 2 * beyond, full),
        ]
    # At full length also the second alpha, and the best pair.
    return [
        PlannedStage('short lr', _longest_walk(lrs) + beyond, short),
        PlannedStage('short alpha', _longest_walk(alphas) - 1, short),
        PlannedStage('full', lrs + 2 * beyond + _FINALISTS, full),
    ]


def grid(settings: UnimodalFixNormSearch) -> tuple[float, ...]:
    """Return the learning rates, rising: both ends of the range, and about ``lr_factor`` between neighbours."""
    low, high = settings.known_lr_range
    steps = max(1, round(math.log(high / low) / math.log(settings.lr_factor)))
    return (low, *(tidy(float(lr), low, high) for lr in np.geomspace(low, high, steps + 1)[1:-1]), high)


def _beyond(lrs: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the learning rates of the same spacing below and above a grid, rising."""
    low, high = lrs[0], lrs[-1]
    factor = (high / low) ** (1 / (len(lrs) - 1))
    steps = range(1, EXTENSIONS + 1)
    below = [tidy(low / factor**k, 0.0, low) for k in reversed(steps)]
    return below, [tidy(high * factor**k, high, math.inf) for k in steps]


class _Course:
    """The grid of a search, with what is known of its trainings."""

    def __init__(self, settings: UnimodalFixNormSearch, finished: Finished) -> None:
        inside = grid(settings)
        below, above = _beyond(inside) if settings.extend else ([], [])
        self.lrs = (*below, *inside, *above)
        self.notes: list[str] = []
        self._inside = range(len(below), len(below) + len(inside))
        self._alphas = sorted(settings.alphas)
        self._short, self._full = settings.schedule_fractions
        self._rule = settings.rule
        self._finished = finished

    def short_lrs(self) -> list[Spec]:
        """Walk over the learning rates at the middle alpha, as far as results are known."""
        alpha = self._alphas[(len(self._alphas) - 1) // 2]
        line = [self._spec('short lr', lr, alpha) for lr in self.lrs]
        start = _inner(len(self._inside))
        return self._walk(line, range(self._inside[start[0]], self._inside[start[-1]] + 1), inside=self._inside)

    def short_alphas(self, at: Spec) -> list[Spec]:
        """Walk over the alphas, with the training of the walk before it."""
        line = [
            at if alpha == at.point.alpha else self._spec('short alpha', at.point.lr, alpha) for alpha in self._alphas
        ]
        return self._walk(line, _inner(len(line)))

    def full(self, at: Spec, alphas: Sequence[float | None]) -> list[Spec]:
        """Walk down from a learning rate at the first alpha; add the other alphas one lower, and the best pair."""
        line = [self._spec('full', lr, alphas[0]) for lr in self.lrs]
        top = self.lrs.index(at.point.lr)
        low = max(top - 1, 0 if top < self._inside.start else self._inside.start)
        walk = self._walk(line, range(low, top + 1), upwards=False, inside=self._inside, before=self.short_lrs())
        others = [self._spec('full', self.lrs[low], alpha) for alpha in alphas[1:]]
        specs = [*walk, *others]
        best_lr, best_alpha = self.first(walk), self.first([line[low], *others])
        if best_lr and best_alpha and all(s.key in self._finished for s in specs):
            pair = self._spec('full', best_lr.point.lr, best_alpha.point.alpha)
            specs += [pair] if pair not in specs else []
        return specs

    def stage(self, name: str, kind: StageKind, specs: Sequence[Spec]) -> Stage:
        """Make a stage of these trainings, with what is known of them."""
        return make_stage(name, kind, specs, self._finished, self._rule)

    def ranked(self, specs: Iterable[Spec]) -> list[Spec]:
        """Sort the trainings that have a value, best first."""
        by_key = {s.key: s for s in specs}
        return [by_key[t.key] for t in ranked(self._rule, [self._finished[k] for k in by_key if k in self._finished])]

    def first(self, specs: Iterable[Spec]) -> Spec | None:
        """Return the best of the trainings that have a value."""
        return next(iter(self.ranked(specs)), None)

    def _spec(self, stage: str, lr: float, alpha: float | None) -> Spec:
        length = 'full' if stage == 'full' else 'short'
        number = self.lrs.index(lr) - self._inside.start
        place = (f'k{number}' if number >= 0 else f'x{-number}') + (
            '' if alpha is None else f'-a{self._alphas.index(alpha)}'
        )
        fraction = self._full if stage == 'full' else self._short
        return Spec(f'{length}-{place}', stage, Point(lr, alpha), fraction)

    def _walk(
        self,
        line: Sequence[Spec],
        start: range,
        *,
        upwards: bool = True,
        inside: range | None = None,
        before: Sequence[Spec] = (),
    ) -> list[Spec]:
        """Return the part of a line that is trained: from ``start`` uphill until the best lies inside.

        What is not in ``inside`` lies beyond the range, and is not tried where the best has the value of another one
        of the walk or of ``before``.
        """
        low, high = start[0], start[-1]
        while all(s.key in self._finished for s in line[low : high + 1]):
            best = self.first(line[low : high + 1])
            at = low
            if low > 0 and best in (None, line[low]):
                step = -1
            elif upwards and high < len(line) - 1 and best == line[high]:
                at, step = high, 1
            else:
                break
            if inside is not None and at + step not in inside:
                walked = [*line[low : high + 1], *before]
                if best is not None and not self._stands_alone(best, walked):
                    break
                self._note(line[at], line[at + step], inside, diverged=best is None)
            low, high = min(low, at + step), max(high, at + step)
        return list(line[low : high + 1])

    def _stands_alone(self, best: Spec, walked: Sequence[Spec]) -> bool:
        return stands_alone(self._finished[best.key], [self._finished[s.key] for s in walked])

    def _note(self, end: Spec, beyond: Spec, inside: range, *, diverged: bool) -> None:
        lr, place = beyond.point.lr, self.lrs.index(beyond.point.lr)
        name, number = ('highest', place - inside[-1]) if place > inside[-1] else ('lowest', inside[0] - place)
        note = extension_note(end.stage, None if diverged else end.point.lr, name, lr, number)
        if note not in self.notes:
            self.notes.append(note)


def _inner(size: int) -> range:
    """Return the three in the middle, or all if there are fewer."""
    middle = (size - 1) // 2
    return range(max(middle - 1, 0), min(middle + 2, size))


def _longest_walk(size: int) -> int:
    """Count the trainings of a walk that continues to the farther end."""
    start = _inner(size)
    return max(start[-1] + 1, size - start[0])


METHOD = Method(UnimodalFixNormSearch, replay, planned_stages)
