"""Points drawn evenly on a scale: random search, and what the other methods that sample points share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.space import Range, parse_space
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
from mmfixnorm.search.settings import SearchSettings


@dataclass(frozen=True)
class SampledSearch(SearchSettings):
    """What methods share that sample lr and one other number, both on a log scale, and any more numbers.

    Args:
        lr_range (tuple[float, float] or str): ``(lr_min, lr_max)``, or ``'auto'``: measured first.
        alpha_range (tuple[float, float], optional): ``(alpha_min, alpha_max)``; give this one or
            ``weight_decay_range``. The other number stays as it is in the config.
        weight_decay_range (tuple[float, float], optional): The same for weight decay.
        weight_decay_key (str or list[str]): Where the weight decay is in the config.
        space (dict): Other numbers of the config to tune, each a dotted key with its range: a pair ``(low, high)`` for
            even values, or ``dict(low=..., high=..., log=True)`` for values that are even on a log scale. They are
            integers where both ends and the config's own value are; ``integer=True`` or ``integer=False`` says
            otherwise.
        num_trials (int): Number of points.
        sampler_seed (int): Seed of the points; ``seed`` is the seed of the trainings.
    """

    lr_range: tuple[float, float] | str = (0.2, 3.2)
    alpha_range: tuple[float, float] | None = None
    weight_decay_range: tuple[float, float] | None = None
    weight_decay_key: str | tuple[str, ...] = 'optim_wrapper.optimizer.weight_decay'
    space: Mapping[str, Any] = field(default_factory=dict, hash=False)
    num_trials: int = 25
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.alpha_range is None) == (self.weight_decay_range is None):
            raise ConfigError(
                'search.weight_decay_range: give either weight_decay_range or alpha_range, '
                f'got weight_decay_range={self.weight_decay_range!r} and alpha_range={self.alpha_range!r}'
            )
        self._set('lr_range', checks.lr_range(self.lr_range))
        for name in ('alpha_range', 'weight_decay_range'):
            if getattr(self, name) is not None:
                self._set(name, checks.positive_range(name, getattr(self, name)))
        keys = checks.dotted_keys('weight_decay_key', self.weight_decay_key, 'optim_wrapper')
        self._set('weight_decay_key', keys)
        self._set('space', parse_space(self.space))
        checks.integer('num_trials', self.num_trials, at_least=1)
        checks.integer('sampler_seed', self.sampler_seed, at_least=0)

    @property
    def alpha_keys(self) -> tuple[str, ...]:
        return super().alpha_keys if self.alpha_range is not None else ()

    @property
    def weight_decay_keys(self) -> tuple[str, ...]:
        if self.weight_decay_range is None:
            return ()
        return checks.dotted_keys('weight_decay_key', self.weight_decay_key, 'optim_wrapper')

    @property
    def tuned_keys(self) -> dict[str, tuple[str, ...]]:
        return {**super().tuned_keys, **{key: (key,) for key in self.space}}

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges by the name of their number, lr first."""
        pairs = {name: getattr(self, f'{name}_range') for name in super().tuned_keys}
        pairs['lr'] = self.known_lr_range
        return {name: Range(pair[0], pair[1], log=True) for name, pair in pairs.items() if pair} | dict(self.space)

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if not self.space:  # a record from before this key existed continues
            del values['space']
        return values


@dataclass(frozen=True)
class OneLengthSearch(SampledSearch):
    """All trainings have one length."""

    schedule_fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set('schedule_fraction', checks.fractions('schedule_fraction', [self.schedule_fraction])[0])

    @property
    def fractions(self) -> tuple[float, ...]:
        return (self.schedule_fraction,)

    @property
    def stages_compete(self) -> bool:
        return True


@dataclass(frozen=True)
class RandomSearch(OneLengthSearch):
    """Points drawn evenly, lr on the log scale, each from ``sampler_seed`` and its number alone.

    Args:
        schedule_fraction (float): Length of the trainings, as a fraction of the config's own schedule.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_range``.
    """

    kind: ClassVar[str] = 'RandomSearch'


def random_point(settings: SampledSearch, index: int) -> Point:
    """Draw the point with this number, from ``sampler_seed`` and the number alone.

    So the points of two methods with one seed and one space are the same, and fewer trials are the
    beginning of more.

    Args:
        settings (SampledSearch): Its ``ranges``, lr first, take a uniform number from [0, 1) each.
        index (int): Number of the point, from 0.

    Returns:
        Point: The learning rate, the one other number, and those of the space.
    """
    return _point_in(settings.ranges, settings.sampler_seed, index)


def random_specs(settings: SampledSearch, stage: str, keys: Sequence[str], fraction: float) -> list[Spec]:
    """Make one training for each key, at the first random points."""
    ranges = settings.ranges
    return [Spec(key, stage, _point_in(ranges, settings.sampler_seed, i), fraction) for i, key in enumerate(keys)]


def _point_in(ranges: Mapping[str, Range], seed: int, index: int) -> Point:
    return Point.of(
        {n: of.at(u) for (n, of), u in zip(ranges.items(), _uniform(seed, index, len(ranges)), strict=True)}
    )


@cache  # each plan of a search draws all of its points again
def _uniform(seed: int, index: int, count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng([seed, index]).random(count).tolist())


def replay(settings: RandomSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow a random search: all of its points are known from the beginning."""
    del proposed
    specs = random_specs(settings, 'random', numbered('random', settings.num_trials), settings.schedule_fraction)
    lr_range = settings.known_lr_range
    stage = make_stage('random', StageKind.SAMPLES, specs, finished, settings.rule, lr_range=lr_range)
    return one_stage(settings, stage)


def planned_stages(settings: RandomSearch) -> list[PlannedStage]:
    """List its one stage."""
    return [PlannedStage('random', settings.num_trials, settings.schedule_fraction)]


METHOD = Method(RandomSearch, replay, planned_stages)
