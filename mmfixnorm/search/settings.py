"""The ``search`` block of a config as checked, frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.keys import nearest
from mmfixnorm.search.base_settings import SearchSettings
from mmfixnorm.search.methods.sampled import BayesianSearch, RandomSearch, SuccessiveHalvingSearch


@dataclass(frozen=True)
class FixNormSearch(SearchSettings):
    """Tuned FixNorm, Algorithm 4: rounds over a shrinking lr range, then alpha.

    Args:
        lr_range (tuple[float, float]): ``(lr_min, lr_max)`` of round 0.
        num_rounds (int): Rounds N over the learning rate.
        num_splits (int): Learning rates K in each round, at least 2.
        schedule_fractions (list[float]): Length of each round's trainings, in parts of the
            config's own schedule; N numbers in (0, 1] that do not fall.
        alphas (list[float]): Phase 1 uses the first, phase 2 tries the others.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_range``.
    """

    kind: ClassVar[str] = 'FixNormSearch'

    lr_range: tuple[float, float] = (0.2, 3.2)
    num_rounds: int = 2
    num_splits: int = 5
    schedule_fractions: tuple[float, ...] = (0.2, 1.0)
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set('lr_range', checks.positive_range('lr_range', self.lr_range))
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


@dataclass(frozen=True)
class UnimodalFixNormSearch(SearchSettings):
    """Tuned FixNorm in fewer trainings than Algorithm 4, see :mod:`.unimodal`.

    Args:
        lr_range (tuple[float, float]): ``(lr_min, lr_max)``.
        lr_factor (float): Factor between neighbouring learning rates, above 1. It is rounded so that
            both ends of the range are among them.
        schedule_fractions (tuple[float, float]): Length of the short and of the long trainings, in parts
            of the config's own schedule.
        alphas (list[float]): The alphas, in any order.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lr_factor``.
    """

    kind: ClassVar[str] = 'UnimodalFixNormSearch'

    lr_range: tuple[float, float] = (0.2, 3.2)
    lr_factor: float = 2.0
    schedule_fractions: tuple[float, ...] = (0.2, 1.0)
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set('lr_range', checks.positive_range('lr_range', self.lr_range))
        rule = 'a finite number > 1'
        if checks.finite('lr_factor', self.lr_factor, rule) <= 1:
            raise checks.fail('lr_factor', rule, self.lr_factor)
        self._set('schedule_fractions', checks.fractions('schedule_fractions', self.schedule_fractions))
        if len(self.schedule_fractions) != 2:
            rule = 'a pair: the length of the short and that of the long trainings'
            raise checks.fail('schedule_fractions', rule, self.schedule_fractions)
        self._set('alphas', checks.distinct_positives('alphas', self.alphas))

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.schedule_fractions


@dataclass(frozen=True)
class GridSearch(SearchSettings):
    """A plain grid over the learning rate, or over learning rate and alpha.

    Args:
        lrs (list[float], optional): The learning rates; or give ``lr_range`` and ``num_splits``
            for evenly spaced ones with both ends.
        lr_range (tuple[float, float], optional): ``(lr_min, lr_max)``.
        num_splits (int): Learning rates in ``lr_range``, at least 2.
        alphas (list[float], optional): The alphas; None tunes the learning rate alone and
            ``alpha_key`` is not looked at.
        schedule_fraction (float): Length of the trainings, in parts of the config's own schedule.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.lrs``.
    """

    kind: ClassVar[str] = 'GridSearch'

    lrs: tuple[float, ...] | None = None
    lr_range: tuple[float, float] | None = None
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
            self._set('lr_range', checks.positive_range('lr_range', self.lr_range))
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


METHODS: tuple[type[SearchSettings], ...] = (
    FixNormSearch,
    GridSearch,
    BayesianSearch,
    RandomSearch,
    SuccessiveHalvingSearch,
    UnimodalFixNormSearch,
)
KINDS: dict[str, type[SearchSettings]] = {method.kind: method for method in METHODS}


def parse_settings(block: Any) -> SearchSettings:
    """Check a config's ``search`` block.

    Args:
        block (dict): The block, with its ``type`` (default ``'FixNormSearch'``).

    Raises:
        ConfigError: No block, an unknown type or key, or a value that breaks its rule.

    Example:
        >>> parse_settings(dict(type='FixNormSearch', lr_range=(0.2, 3.2))).num_splits
        5
    """
    if not isinstance(block, Mapping):
        raise ConfigError(
            "search: the config needs a block search = dict(type='FixNormSearch', "
            f'lr_range=(lr_min, lr_max), ...), got {block!r}'
        )
    values = dict(block)
    name = values.pop('type', FixNormSearch.kind)
    if name not in KINDS:
        raise ConfigError(f'search.type: must be one of {sorted(KINDS)}, got {name!r}{nearest(str(name), KINDS)}')
    valid = {f.name for f in fields(KINDS[name])}
    for key in values:
        if key not in valid:
            raise ConfigError(
                f'search.{key}: {name} has no such key{nearest(str(key), valid)} (it has: {", ".join(sorted(valid))})'
            )
    return KINDS[name](**values)
