"""Fewer trainings than Algorithm 4 by the same two priors, used further.

Accuracy is about unimodal in the learning rate, and the best learning rate of a shorter training bounds
that of a longer one from above; learning rate and alpha can be tuned apart. So:

1. ``short lr``: walk uphill over the learning rates in short trainings at the middle alpha. The walk
   starts with the three in the middle, goes on where the best is at an end, and stops after the fall.
2. ``short alpha``: the same walk over the alphas at that learning rate.
3. ``full``: at full length the best short learning rate and the next lower one at the best alpha,
   together with the second-best alpha at the lower one, because short trainings can prefer another
   alpha than long ones; the walk goes on downwards only. If the best learning rate and the best alpha
   were not trained together by then, they are.

The learning rates lie evenly on a log scale, ``lr_factor`` apart: the number of trainings of a walk
hardly grows with the range, so nothing is saved by a coarse grid.

Decided here:

- the winner is the best training of full length; a shorter one never wins;
- of equal values the lower learning rate, then the lower alpha is the better one;
- where everything tried diverged, the walk goes on downwards; if it comes to the end so, the search is
  stuck.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mmfixnorm.search.methods.base import Closed, Replay, Spec, Stage, all_diverged, edge_warnings, make_stage, ranked
from mmfixnorm.search.methods.values import tidy
from mmfixnorm.search.settings import UnimodalFixNormSearch

# Alphas that are trained at full length. On real tables one was worse, three no better: docs/search.md, "Measured".
_FINALISTS = 2


def replay_unimodal(settings: UnimodalFixNormSearch, closed: Mapping[str, Closed], asked: Mapping[str, Spec]) -> Replay:
    """Follow the two walks in short trainings, then the one at full length."""
    del asked
    course = _Course(settings, closed)
    stages: list[Stage] = []

    def so_far(*, finished: bool = False, stuck: str = '', warnings: Sequence[str] = ()) -> Replay:
        best = next((s.best for s in reversed(stages) if s.best), None)
        return Replay(tuple(stages), best, finished, stuck, tuple(warnings))

    lr_walk = course.short_lrs()
    stages.append(course.stage('short lr', lr_walk))
    lr = course.first(lr_walk)
    if stages[-1].missing:
        return so_far()
    if lr is None:
        return so_far(stuck=all_diverged('short lr', lr_walk))

    alpha_walk = course.short_alphas(lr)
    new = [s for s in alpha_walk if s not in lr_walk]
    if new:
        stages.append(course.stage('short alpha', new))
        if stages[-1].missing:
            return so_far()

    full = course.full(lr, [s.alpha for s in course.ranked(alpha_walk)][:_FINALISTS])
    stages.append(course.stage('full', full))
    if stages[-1].missing:
        return so_far()
    if stages[-1].best is None:
        return so_far(stuck=all_diverged('full', full))
    return so_far(finished=True, warnings=edge_warnings(stages[-1].best, course.lrs))


def outline_unimodal(settings: UnimodalFixNormSearch) -> list[tuple[str, int, float]]:
    """Its stages; the numbers are those of the longest walks."""
    short, full = settings.schedule_fractions
    lrs, alphas = len(grid(settings)), len(settings.alphas)
    if alphas == 1:
        return [('short lr', _longest_walk(lrs), short), ('full', lrs, full)]
    # At full length also the second alpha, and the best pair.
    return [
        ('short lr', _longest_walk(lrs), short),
        ('short alpha', _longest_walk(alphas) - 1, short),
        ('full', lrs + _FINALISTS, full),
    ]


def grid(settings: UnimodalFixNormSearch) -> tuple[float, ...]:
    """The learning rates, rising: both ends of the range, and about ``lr_factor`` between neighbours."""
    low, high = settings.lr_range
    steps = max(1, round(math.log(high / low) / math.log(settings.lr_factor)))
    return (low, *(tidy(float(lr), low, high) for lr in np.geomspace(low, high, steps + 1)[1:-1]), high)


class _Course:
    """The grid of a search, with what is known of its trainings."""

    def __init__(self, settings: UnimodalFixNormSearch, closed: Mapping[str, Closed]) -> None:
        self.lrs = grid(settings)
        self._alphas = sorted(settings.alphas)
        self._short, self._full = settings.schedule_fractions
        self._rule = settings.rule
        self._closed = closed

    def short_lrs(self) -> list[Spec]:
        """The walk over the learning rates at the middle alpha, as far as it is known."""
        alpha = self._alphas[(len(self._alphas) - 1) // 2]
        line = [self._spec('short lr', lr, alpha) for lr in self.lrs]
        return self._walk(line, _inner(len(line)))

    def short_alphas(self, at: Spec) -> list[Spec]:
        """The walk over the alphas, with the training of the walk before it."""
        line = [at if alpha == at.alpha else self._spec('short alpha', at.lr, alpha) for alpha in self._alphas]
        return self._walk(line, _inner(len(line)))

    def full(self, at: Spec, alphas: Sequence[float | None]) -> list[Spec]:
        """Downwards from a learning rate at the first alpha, the other alphas one lower, and the best pair."""
        line = [self._spec('full', lr, alphas[0]) for lr in self.lrs]
        top = self.lrs.index(at.lr)
        low = max(top - 1, 0)
        walk = self._walk(line, range(low, top + 1), upwards=False)
        others = [self._spec('full', self.lrs[low], alpha) for alpha in alphas[1:]]
        specs = [*walk, *others]
        best_lr, best_alpha = self.first(walk), self.first([line[low], *others])
        if best_lr and best_alpha and all(s.key in self._closed for s in specs):
            pair = self._spec('full', best_lr.lr, best_alpha.alpha)
            specs += [pair] if pair not in specs else []
        return specs

    def stage(self, name: str, specs: Sequence[Spec]) -> Stage:
        """These trainings with what is known of them."""
        return make_stage(name, specs, self._closed, self._rule)

    def ranked(self, specs: Iterable[Spec]) -> list[Spec]:
        """Those that have a value, best first."""
        by_key = {s.key: s for s in specs}
        return [by_key[c.key] for c in ranked(self._rule, [self._closed[k] for k in by_key if k in self._closed])]

    def first(self, specs: Iterable[Spec]) -> Spec | None:
        """The best of those that have a value."""
        return next(iter(self.ranked(specs)), None)

    def _spec(self, stage: str, lr: float, alpha: float | None) -> Spec:
        length = 'full' if stage == 'full' else 'short'
        place = f'k{self.lrs.index(lr)}' + ('' if alpha is None else f'-a{self._alphas.index(alpha)}')
        return Spec(f'{length}-{place}', stage, lr, alpha, self._full if stage == 'full' else self._short)

    def _walk(self, line: Sequence[Spec], start: range, *, upwards: bool = True) -> list[Spec]:
        """Those of a line that are trained: from ``start`` uphill until the best lies inside."""
        low, high = start[0], start[-1]
        while all(s.key in self._closed for s in line[low : high + 1]):
            best = self.first(line[low : high + 1])
            if low > 0 and best in (None, line[low]):
                low -= 1
            elif upwards and high < len(line) - 1 and best == line[high]:
                high += 1
            else:
                break
        return list(line[low : high + 1])


def _inner(size: int) -> range:
    """The three in the middle, or what there is."""
    middle = (size - 1) // 2
    return range(max(middle - 1, 0), min(middle + 2, size))


def _longest_walk(size: int) -> int:
    """Trainings of a walk that goes on to the farther end."""
    start = _inner(size)
    return max(start[-1] + 1, size - start[0])
