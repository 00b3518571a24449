"""Tuned FixNorm, Algorithm 4: rounds over a shrinking range of learning rates, then the alphas.

Decided here, where Algorithm 4 is silent:

- equal values: the lower learning rate wins; then the earlier alpha of the list;
- a later round or alpha replaces the best so far only if it is better, not if it is equal;
- a training that diverged ranks below every training that did not;
- a round in which all trainings diverged has no best: the search is stuck;
- if the alphas all diverged, the first alpha stays the winner;
- a later round whose upper bound has fallen onto ``lr_min`` has one training;
- with ``search.extend``, a round 0 whose best is its highest learning rate tries twice that, while it is better and at
  most three times, and a search whose best after the last round is the lowest that was tried tries half of it in the
  same way. (The even spacing of a round is a factor of 1.2 at its top, and comes to 0 below.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.numbers import tidy
from mmfixnorm.search.methods.base import (
    EXTENSION_FACTOR,
    EXTENSIONS,
    Best,
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
    better,
    extension_note,
    make_stage,
    stands_alone,
)
from mmfixnorm.search.settings import SearchSettings


@dataclass(frozen=True)
class FixNormSearch(SearchSettings):
    """Tuned FixNorm, Algorithm 4: rounds over a shrinking lr range, then alpha.

    Args:
        lr_range (tuple[float, float] or str): ``(lr_min, lr_max)`` of round 0, or ``'auto'``: measured first.
        num_rounds (int): Rounds N over the learning rate.
        num_splits (int): Learning rates K in each round, at least 2.
        schedule_fractions (list[float]): Length of each round's trainings, as fractions of the config's own schedule;
            N numbers in (0, 1] that do not fall.
        alphas (list[float]): Phase 1 uses the first, phase 2 tries the others.
        extend (bool): Continue beyond an end of the range while the best learning rate lies there.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_range``.
    """

    kind: ClassVar[str] = 'FixNormSearch'

    lr_range: tuple[float, float] | str = (0.2, 3.2)
    num_rounds: int = 2
    num_splits: int = 5
    schedule_fractions: tuple[float, ...] = (0.2, 1.0)
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    extend: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.boolean('extend', self.extend)
        self._set('lr_range', checks.lr_range(self.lr_range))
        checks.integer('num_rounds', self.num_rounds, at_least=1)
        checks.integer('num_splits', self.num_splits, at_least=2)
        self._set('schedule_fractions', checks.fractions('schedule_fractions', self.schedule_fractions))
        if len(self.schedule_fractions) != self.num_rounds:
            raise ConfigError(
                f'search.schedule_fractions: must have one number for each of the '
                f'{self.num_rounds} rounds (search.num_rounds), got {self.schedule_fractions!r}'
            )
        self._set('alphas', checks.distinct_positives('alphas', self.alphas))

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.schedule_fractions


def split(low: float, high: float, num: int, *, drop_low: bool) -> tuple[float, ...]:
    """Split ``[low, high]`` into ``num`` learning rates, evenly and without repetition.

    Round 0 of Algorithm 4 drops the lower end, later rounds keep both; only this reproduces the published values.
    """
    values = np.linspace(low, high, num + 1)[1:] if drop_low else np.linspace(low, high, num)
    rounded = [tidy(float(v), low, high) for v in values]
    rounded[-1] = high  # the ends are the caller's, to the last digit
    if not drop_low:
        rounded[0] = low
    return tuple(dict.fromkeys(rounded))


def replay(settings: FixNormSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow the rounds over the learning rate, then the alphas."""
    del proposed
    low, high = settings.known_lr_range
    best: Best | None = None
    stages: list[Stage] = []
    warnings: list[str] = []
    notes: list[str] = []

    def so_far(*, is_over: bool = False, stuck: str = '') -> Replay:
        # Of a search that is over, the winner is judged, see `edges.py`.
        return Replay(tuple(stages), best, is_over, stuck, () if is_over else tuple(warnings), notes=tuple(notes))

    for r, fraction in enumerate(settings.schedule_fractions):
        stage = _round(settings, r, (low, high), fraction, finished)
        stages.append(stage)
        if stage.missing:
            return so_far()
        if stage.best is None:
            return so_far(stuck=all_diverged(settings, stage.name, stage.specs))
        of_round = stage.best
        if r == 0 and settings.extend:
            of_round = _extend(settings, stages, of_round, finished, notes, upwards=True)
            if stages[-1].missing:
                return so_far()
            high = max(high, stages[-1].specs[-1].point.lr)
        if r == 0 and of_round.point.lr == high:
            end = 'the highest that search.extend tries' if settings.extend else 'the upper bound of search.lr_range'
            warnings.append(f'the best learning rate of round 0, {high}, is {end}: the range is probably too small')
        high = of_round.point.lr
        if best is None or better(settings.rule, of_round.value, best.value):
            best = of_round

    if best is None:
        raise ValueError('a search needs at least one round')
    if settings.extend:
        best = _extend(settings, stages, best, finished, notes, upwards=False)
        if stages[-1].missing:
            return so_far()
    specs = [
        Spec(f'alpha-{i}', 'alpha', Point(best.point.lr, alpha), settings.schedule_fractions[-1])
        for i, alpha in enumerate(settings.alphas)
        if i > 0  # phase 1 has trained the first alpha
    ]
    if specs:
        stage = make_stage('alpha', StageKind.ALPHA, specs, finished, settings.rule)
        stages.append(stage)
        if stage.missing:
            return so_far()
        if stage.best is not None and better(settings.rule, stage.best.value, best.value):
            best = stage.best
    return so_far(is_over=True)


def _round(
    settings: FixNormSearch, r: int, lr_range: tuple[float, float], fraction: float, finished: Finished
) -> Stage:
    lrs = split(*lr_range, settings.num_splits, drop_low=r == 0)
    specs = [Spec(f'r{r}-k{k}', f'round {r}', Point(lr, settings.alphas[0]), fraction) for k, lr in enumerate(lrs)]
    return make_stage(f'round {r}', StageKind.LR, specs, finished, settings.rule, lr_range=lr_range)


def _extend(
    settings: FixNormSearch, stages: list[Stage], best: Best, finished: Finished, notes: list[str], *, upwards: bool
) -> Best:
    """Add trainings beyond the highest or the lowest learning rate to the stages while the best lies there.

    Returns:
        Best: The best so far; if it is better, that of the added trainings, but for one that has not finished.
    """
    r = 0 if upwards else settings.num_rounds - 1
    way, end, factor = ('up', 'highest', EXTENSION_FACTOR) if upwards else ('down', 'lowest', 1 / EXTENSION_FACTOR)
    for number in range(1, EXTENSIONS + 1):
        tried = [finished[spec.key] for stage in stages for spec in stage.specs]
        lrs = [t.point.lr for t in tried]
        if best.point.lr != (max(lrs) if upwards else min(lrs)) or not stands_alone(best, tried):
            break
        lr = best.point.lr * factor
        name = f'round {r}, {way} {number}'
        notes.append(extension_note(f'round {r}', best.point.lr, end, lr, number))
        spec = Spec(f'r{r}-{way}{number}', name, Point(lr, settings.alphas[0]), settings.schedule_fractions[r])
        stages.append(make_stage(name, StageKind.LR, [spec], finished, settings.rule))
        added = stages[-1].best
        if added is None or not better(settings.rule, added.value, best.value):
            break
        best = added
    return best


def planned_stages(settings: FixNormSearch) -> list[PlannedStage]:
    """List the rounds and the alphas; a later round can be smaller."""
    rounds = [PlannedStage(f'round {r}', settings.num_splits, f) for r, f in enumerate(settings.schedule_fractions)]
    alphas = PlannedStage('alpha', len(settings.alphas) - 1, settings.schedule_fractions[-1])
    if settings.extend:
        first, last = settings.schedule_fractions[0], settings.schedule_fractions[-1]
        numbers = range(1, EXTENSIONS + 1)
        rounds[1:1] = [PlannedStage(f'round 0, up {number}', 1, first) for number in numbers]
        name = f'round {settings.num_rounds - 1}'
        rounds += [PlannedStage(f'{name}, down {number}', 1, last) for number in numbers]
    return [*rounds, alphas] if len(settings.alphas) > 1 else rounds


METHOD = Method(FixNormSearch, replay, planned_stages)
