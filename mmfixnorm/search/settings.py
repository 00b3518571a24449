"""The ``search`` block of a config as checked, frozen data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.dotted import nearest

#: Settings that say how trials are executed, not what they are: changing them never changes a
#: result, so a search may be resumed with other values.
EXECUTION_KEYS = frozenset({'workers', 'max_attempts', 'timeout_s', 'keep_weights'})


def _fail(key: str, rule: str, found: Any) -> ConfigError:
    return ConfigError(f'search.{key}: must be {rule}, got {found!r}')


def _number(key: str, value: Any, rule: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _fail(key, rule, value)
    return float(value)


def _positive(key: str, value: Any) -> float:
    rule = 'a finite number > 0'
    number = _number(key, value, rule)
    if number <= 0:
        raise _fail(key, rule, value)
    return number


def _integer(key: str, value: Any, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise _fail(key, f'an integer >= {at_least}', value)
    return value


def _sequence(key: str, value: Any, rule: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise _fail(key, rule, value)
    return value


def _distinct_positives(key: str, value: Any) -> tuple[float, ...]:
    rule = 'a non-empty list of distinct finite numbers > 0'
    numbers = tuple(_positive(key, v) for v in _sequence(key, value, rule))
    if len(set(numbers)) != len(numbers):
        raise _fail(key, rule, value)
    return numbers


def _lr_range(value: Any) -> tuple[float, float]:
    rule = 'a pair (lr_min, lr_max) with 0 < lr_min < lr_max'
    pair = _sequence('lr_range', value, rule)
    if len(pair) != 2:
        raise _fail('lr_range', rule, value)
    low, high = (_number('lr_range', v, rule) for v in pair)
    if not 0 < low < high:
        raise _fail('lr_range', rule, value)
    return low, high


def _fractions(key: str, value: Any) -> tuple[float, ...]:
    rule = 'a list of numbers in (0, 1], none smaller than the one before it'
    numbers = tuple(_number(key, v, rule) for v in _sequence(key, value, rule))
    if any(not 0 < n <= 1 for n in numbers) or list(numbers) != sorted(numbers):
        raise _fail(key, rule, value)
    return numbers


def _keys(key: str, value: Any, root: str) -> tuple[str, ...]:
    rule = f"a dotted key of the config that starts with '{root}.', or a list of such keys"
    names = (value,) if isinstance(value, str) else tuple(_sequence(key, value, rule))
    if any(not isinstance(n, str) or not n.startswith(f'{root}.') for n in names):
        raise _fail(key, rule, value)
    return names


def _one_of(key: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise _fail(key, ' or '.join(map(repr, valid)), value)


@dataclass(frozen=True)
class SearchSettings(ABC):
    """What every kind of search shares.

    Args:
        metric (str): Name of the number to tune for, as the config's ``val_evaluator`` reports it.
        rule (str): ``'greater'`` or ``'less'``: which values of the metric are better.
        select (str): ``'last'`` takes the metric at the end of training, ``'best'`` the best
            validation of the training.
        lr_key (str or list[str]): Where the learning rate is in the config.
        alpha_key (str or list[str]): Where alpha is in the config.
        seed (int, optional): Written to ``randomness.seed`` of every trial; None leaves the
            config's own.
        workers (int): Trials that run at the same time.
        max_attempts (int): Attempts at a trial whose process fails, in one run of the command.
        timeout_s (float, optional): Wall-clock limit of one attempt, in seconds.
        keep_weights (str): ``'winner'`` deletes the checkpoints of a finished trial unless it is
            the best one so far, ``'all'`` deletes none.
    """

    kind: ClassVar[str]

    metric: str = 'accuracy/top1'
    rule: str = 'greater'
    select: str = 'last'
    lr_key: str | tuple[str, ...] = 'optim_wrapper.optimizer.lr'
    alpha_key: str | tuple[str, ...] = 'model.head.alpha'
    seed: int | None = 0
    workers: int = 1
    max_attempts: int = 3
    timeout_s: float | None = None
    keep_weights: str = 'winner'

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise _fail('metric', 'the name of a metric', self.metric)
        _one_of('rule', self.rule, ('greater', 'less'))
        _one_of('select', self.select, ('last', 'best'))
        _one_of('keep_weights', self.keep_weights, ('winner', 'all'))
        self._set('lr_key', _keys('lr_key', self.lr_key, 'optim_wrapper'))
        self._set('alpha_key', _keys('alpha_key', self.alpha_key, 'model'))
        if self.seed is not None:
            _integer('seed', self.seed, at_least=0)
        _integer('workers', self.workers, at_least=1)
        _integer('max_attempts', self.max_attempts, at_least=1)
        if self.timeout_s is not None:
            self._set('timeout_s', _positive('timeout_s', self.timeout_s))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else

    @property
    def lr_keys(self) -> tuple[str, ...]:
        """Dotted keys that get the learning rate."""
        return _keys('lr_key', self.lr_key, 'optim_wrapper')

    @property
    def alpha_keys(self) -> tuple[str, ...]:
        """Dotted keys that get alpha; empty when this search does not tune it."""
        return _keys('alpha_key', self.alpha_key, 'model')

    @property
    @abstractmethod
    def fractions(self) -> tuple[float, ...]:
        """The lengths asked for, as fractions of the config's own schedule, rising."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides what the trials are, as plain data."""
        values = {k: v for k, v in asdict(self).items() if k not in EXECUTION_KEYS}
        return {'type': self.kind, **values}


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
        self._set('lr_range', _lr_range(self.lr_range))
        _integer('num_rounds', self.num_rounds, at_least=1)
        _integer('num_splits', self.num_splits, at_least=2)
        self._set('schedule_fractions', _fractions('schedule_fractions', self.schedule_fractions))
        if len(self.schedule_fractions) != self.num_rounds:
            raise ConfigError(
                f'search.schedule_fractions: must have one number for each of the '
                f'{self.num_rounds} rounds (search.num_rounds), got {self.schedule_fractions!r}'
            )
        self._set('alphas', _distinct_positives('alphas', self.alphas))

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
            self._set('lrs', _distinct_positives('lrs', self.lrs))
        if self.lr_range is not None:
            self._set('lr_range', _lr_range(self.lr_range))
        _integer('num_splits', self.num_splits, at_least=2)
        if self.alphas is not None:
            self._set('alphas', _distinct_positives('alphas', self.alphas))
        self._set('schedule_fraction', _fractions('schedule_fraction', [self.schedule_fraction])[0])

    @property
    def alpha_keys(self) -> tuple[str, ...]:
        return super().alpha_keys if self.alphas is not None else ()

    @property
    def fractions(self) -> tuple[float, ...]:
        return (self.schedule_fraction,)


KINDS: dict[str, type[SearchSettings]] = {c.kind: c for c in (FixNormSearch, GridSearch)}


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
