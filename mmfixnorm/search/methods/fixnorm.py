"""Tuned FixNorm, Algorithm 4: rounds over a shrinking range of learning rates, then the alphas.

Decided here, where Algorithm 4 is silent:

- equal values: the lower learning rate wins; then the earlier alpha of the list;
- a later round or alpha replaces the best so far only if it is better, not if it is equal;
- a training that diverged ranks below every training that did not;
- a round in which all trainings diverged has no best: the search is stuck;
- if the alphas all diverged, the first alpha stays the winner;
- a later round whose upper bound has fallen onto ``lr_min`` has one training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.numbers import tidy
from mmfixnorm.search.methods.base import (
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
    make_stage,
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

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_range``.
    """

    kind: ClassVar[str] = 'FixNormSearch'

    lr_range: tuple[float, float] | str = (0.2, 3.2)
    num_rounds: int = 2
    num_splits: int = 5
    schedule_fractions: tuple[float, ...] = (0.2, 1.0)
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def so_far(*, is_over: bool = False, stuck: str = '') -> Replay:
        # Of a search that is over, the winner is judged, see `edges.py`.
        return Replay(tuple(stages), best, is_over, stuck, () if is_over else tuple(warnings))

    for r, fraction in enumerate(settings.schedule_fractions):
        stage = _round(settings, r, (low, high), fraction, finished)
        stages.append(stage)
        if stage.missing:
            return so_far()
        if stage.best is None:
            return so_far(stuck=all_diverged(stage.name, stage.specs))
        if r == 0 and stage.best.point.lr == high:
            warnings.append(
                f'the best learning rate of round 0, {high}, is the upper bound of '
                'search.lr_range: the range is probably too small'
            )
        high = stage.best.point.lr
        if best is None or better(settings.rule, stage.best.value, best.value):
            best = stage.best

    if best is None:
        raise ValueError('a search needs at least one round')
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


def planned_stages(settings: FixNormSearch) -> list[PlannedStage]:
    """List the rounds and the alphas; a later round can be smaller."""
    rounds = [PlannedStage(f'round {r}', settings.num_splits, f) for r, f in enumerate(settings.schedule_fractions)]
    alphas = PlannedStage('alpha', len(settings.alphas) - 1, settings.schedule_fractions[-1])
    return [*rounds, alphas] if len(settings.alphas) > 1 else rounds


METHOD = Method(FixNormSearch, replay, planned_stages)
