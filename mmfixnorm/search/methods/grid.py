"""A plain grid over the learning rate, or over learning rate and alpha."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search.methods.base import (
    Finished,
    Method,
    PlannedStage,
    Point,
    Proposed,
    Replay,
    Spec,
    StageKind,
    make_stage,
    numbered,
    one_stage,
)
from mmfixnorm.search.methods.fixnorm import split
from mmfixnorm.search.settings import SearchSettings


@dataclass(frozen=True)
class GridSearch(SearchSettings):
    """A plain grid over the learning rate, or over learning rate and alpha.

    Args:
        lrs (list[float], optional): The learning rates; or give ``lr_range`` and ``num_splits``
            for evenly spaced ones with both ends.
        lr_range (tuple[float, float] or str, optional): ``(lr_min, lr_max)``, or ``'auto'``: measured first.
        num_splits (int): Learning rates in ``lr_range``, at least 2.
        alphas (list[float], optional): The alphas; None tunes the learning rate alone and ignores ``alpha_key``.
        schedule_fraction (float): Length of the trainings, as a fraction of the config's own schedule.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lrs``.
    """

    kind: ClassVar[str] = 'GridSearch'

    lrs: tuple[float, ...] | None = None
    lr_range: tuple[float, float] | str | None = None
    num_splits: int = 5
    alphas: tuple[float, ...] | None = None
    schedule_fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.lrs is None) == (self.lr_range is None):
            raise ConfigError(
                'search.lrs: give either lrs or lr_range (with num_splits), '
                f'got lrs={self.lrs!r} and lr_range={self.lr_range!r}'
            )
        if self.lrs is not None:
            self._set('lrs', checks.distinct_positives('lrs', self.lrs))
        if self.lr_range is not None:
            self._set('lr_range', checks.lr_range(self.lr_range))
        checks.integer('num_splits', self.num_splits, at_least=2)
        if self.alphas is not None:
            self._set('alphas', checks.distinct_positives('alphas', self.alphas))
        self._set('schedule_fraction', checks.fractions('schedule_fraction', [self.schedule_fraction])[0])

    @property
    def alpha_keys(self) -> tuple[str, ...]:
        return super().alpha_keys if self.alphas is not None else ()

    @property
    def fractions(self) -> tuple[float, ...]:
        return (self.schedule_fraction,)


def _specs(settings: GridSearch) -> list[Spec]:
    if settings.lrs is not None:
        lrs: tuple[float, ...] = settings.lrs
    elif settings.lr_range is not None:
        lrs = split(*settings.known_lr_range, settings.num_splits, drop_low=False)
    else:
        raise ValueError('a grid needs lrs or lr_range')
    points = [Point(lr, alpha) for lr in lrs for alpha in settings.alphas or (None,)]
    keys = numbered('grid', len(points))
    return [Spec(key, 'grid', point, settings.schedule_fraction) for key, point in zip(keys, points, strict=True)]


def replay(settings: GridSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow a grid: all of its points are known from the beginning."""
    del proposed
    specs = _specs(settings)
    return one_stage(settings, make_stage('grid', StageKind.GRID, specs, finished, settings.rule))


def planned_stages(settings: GridSearch) -> list[PlannedStage]:
    """List its one stage."""
    return [PlannedStage('grid', len(_specs(settings)), settings.schedule_fraction)]


METHOD = Method(GridSearch, replay, planned_stages)
