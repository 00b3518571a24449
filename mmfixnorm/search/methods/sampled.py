"""The ``search`` blocks of methods that sample points from ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search.base_settings import SearchSettings


@dataclass(frozen=True)
class SampledSearch(SearchSettings):
    """What the methods share that sample lr and one other number, both on a log scale.

    Args:
        lr_range (tuple[float, float]): ``(lr_min, lr_max)``.
        alpha_range (tuple[float, float], optional): ``(alpha_min, alpha_max)``; give this one or
            ``weight_decay_range``. The other number stays as it is in the config.
        weight_decay_range (tuple[float, float], optional): The same for weight decay.
        weight_decay_key (str or list[str]): Where the weight decay is in the config.
        num_trials (int): Points.
        sampler_seed (int): Seed of the points; ``seed`` is that of the trainings.
    """

    lr_range: tuple[float, float] = (0.2, 3.2)
    alpha_range: tuple[float, float] | None = None
    weight_decay_range: tuple[float, float] | None = None
    weight_decay_key: str | tuple[str, ...] = 'optim_wrapper.optimizer.weight_decay'
    num_trials: int = 25
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.alpha_range is None) == (self.weight_decay_range is None):
            raise ConfigError(
                'search.weight_decay_range: give either weight_decay_range or alpha_range, '
                f'got weight_decay_range={self.weight_decay_range!r} and alpha_range={self.alpha_range!r}'
            )
        for name in ('lr_range', 'alpha_range', 'weight_decay_range'):
            if getattr(self, name) is not None:
                self._set(name, checks.positive_range(name, getattr(self, name)))
        keys = checks.dotted_keys('weight_decay_key', self.weight_decay_key, 'optim_wrapper')
        self._set('weight_decay_key', keys)
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
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The ranges by the name of their number, lr first."""
        ranges = {name: getattr(self, f'{name}_range') for name in self.tuned_keys}
        return {name: pair for name, pair in ranges.items() if pair is not None}


@dataclass(frozen=True)
class _OneLength(SampledSearch):
    """All trainings have one length."""

    schedule_fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set('schedule_fraction', checks.fractions('schedule_fraction', [self.schedule_fraction])[0])

    @property
    def fractions(self) -> tuple[float, ...]:
        return (self.schedule_fraction,)


@dataclass(frozen=True)
class RandomSearch(_OneLength):
    """Points drawn evenly on the log scale, each from ``sampler_seed`` and its number alone.

    Args:
        schedule_fraction (float): Length of the trainings, in parts of the config's own schedule.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_range``.
    """

    kind: ClassVar[str] = 'RandomSearch'


@dataclass(frozen=True)
class BayesianSearch(_OneLength):
    """Bayesian optimisation: each batch is proposed from all results of the batches before it.

    The baseline of Table 1 (``BO + WD``) with ``weight_decay_range``. Not more than ``batch_size``
    trainings run at a time; more ``workers`` than that stay idle.

    Args:
        sampler (str): ``'gp'``, a Gaussian process with expected improvement, or ``'tpe'``.
        num_startup_trials (int): Points that are drawn as :class:`RandomSearch` draws them before
            the first proposal; the first batch always is.
        batch_size (int): Points proposed together. It is part of what the search is: with other
            batches the points are others. The number of workers changes no point.
        schedule_fraction (float): Length of the trainings, in parts of the config's own schedule.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.sampler``.
    """

    kind: ClassVar[str] = 'BayesianSearch'

    sampler: str = 'gp'
    num_startup_trials: int = 5
    batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of('sampler', self.sampler, ('gp', 'tpe'))
        checks.integer('num_startup_trials', self.num_startup_trials, at_least=1)
        checks.integer('batch_size', self.batch_size, at_least=1)


@dataclass(frozen=True)
class SuccessiveHalvingSearch(SampledSearch):
    """Many points in short trainings; the best ``1 / reduction_factor`` go on to a longer length.

    A training that goes on starts from scratch: a schedule that has been run down to its end at the
    shorter length cannot be continued. So each rung costs its trainings in full.

    Args:
        reduction_factor (int): eta, at least 2: of ``n`` points of a rung ``n // eta`` go on.
        schedule_fractions (list[float]): Length of each rung's trainings, in parts of the config's
            own schedule, rising. The last one decides.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.num_trials``.
    """

    kind: ClassVar[str] = 'SuccessiveHalvingSearch'

    num_trials: int = 27
    reduction_factor: int = 3
    schedule_fractions: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer('reduction_factor', self.reduction_factor, at_least=2)
        lengths = checks.fractions('schedule_fractions', self.schedule_fractions)
        if len(set(lengths)) != len(lengths):
            raise checks.fail('schedule_fractions', 'a list of numbers in (0, 1] that rise', self.schedule_fractions)
        self._set('schedule_fractions', lengths)
        if self.rung_sizes[-1] < 1:
            raise ConfigError(
                f'search.num_trials: must be at least {self.reduction_factor ** (len(lengths) - 1)}, so that the '
                f'last of {len(lengths)} rungs (search.schedule_fractions) has a training with '
                f'search.reduction_factor={self.reduction_factor}, got {self.num_trials}'
            )

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.schedule_fractions

    @property
    def rung_sizes(self) -> tuple[int, ...]:
        """Trainings of each rung, as long as enough of them do not diverge."""
        eta = self.reduction_factor
        return tuple(self.num_trials // eta**rung for rung in range(len(self.schedule_fractions)))
