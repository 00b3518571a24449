"""The ranges from which sampled numbers are drawn: how they are given, and what is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.keys import is_key, nearest
from mmfixnorm.search._utils.numbers import tidy


@dataclass(frozen=True)
class Range:
    """The values that a sampled number can have.

    Attributes:
        low: The lowest value.
        high: The highest value.
        log: Whether the values are even on a log scale.
        integer: Whether they are integers. None, where both ends are: if the number is one in the config as well.

    Example:
        >>> Range(0.0, 0.5).at(0.5), Range(1, 4, integer=True).at(0.5), Range(1e-4, 1.0, log=True).at(0.5)
        (0.25, 3, 0.01)
    """

    low: float
    high: float
    log: bool = False
    integer: bool | None = False

    def at(self, place: float) -> float:
        """Return the value at a place in [0, 1); if the places are even, each integer is as likely as the others.

        On a log scale an integer is as likely as the numbers that are rounded to it.
        """
        if not self.is_integer:
            return self.tidy(_between(self.low, self.high, place, log=self.log))
        value = _between(self.low - 0.5, self.high + 0.5, place, log=self.log)
        return self.tidy(math.floor(value + 0.5))

    def tidy(self, value: float) -> float:
        """Keep ten digits, or round to an integer, and stay in the range."""
        if self.is_integer:
            return min(max(round(value), int(self.low)), int(self.high))
        return tidy(value, self.low, self.high)

    def place(self, value: float) -> float:
        """Return the place of a value: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def beside(self, value: float) -> Range:
        """Return the range of a number that has this value in the config: of integers only if it is one."""
        if self.integer is None and not isinstance(value, int):
            return Range(float(self.low), float(self.high), self.log, integer=False)
        return Range(self.low, self.high, self.log, integer=self.is_integer)

    @property
    def is_integer(self) -> bool:
        """Whether its values are integers, as far as is known without the config."""
        return self.integer is not False


def _between(low: float, high: float, place: float, *, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + place * math.log(high / low))
    return low + place * (high - low)


def parse_space(value: Any) -> dict[str, Range]:
    """Check ``search.space``, and sort it by key: the order in a config changes no draw.

    Raises:
        ConfigError: An entry breaks its rule; the message names its key, e.g. ``search.space.model.head.dropout``.

    Example:
        >>> parse_space({'model.head.dropout': (0, 0.5)})
        {'model.head.dropout': Range(low=0.0, high=0.5, log=False, integer=False)}
    """
    rule = "a dict of dotted keys of the config and their ranges, such as {'model.head.dropout': (0, 0.5)}"
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise checks.fail('space', rule, value)
    if names := [key for key in value if not is_key(key)]:
        raise ConfigError(
            f"search.space.{names[0]}: must be a dotted key of the config, one string such as 'model.head.dropout' (a "
            f'variable of the file changes nothing in a training), got {names[0]!r}'
        )
    return {key: _parse_range(f'space.{key}', value[key]) for key in sorted(value)}


def _parse_range(key: str, value: Any) -> Range:
    rule = 'a pair (low, high) of finite numbers with low < high, or dict(low=..., high=..., log=..., integer=...)'
    entries = _entries(key, value, rule)
    low, high, log, integer = (entries.get(field.name, field.default) for field in fields(Range))
    if not checks.finite(key, low, rule) < checks.finite(key, high, rule):
        raise checks.fail(key, rule, value)
    if not isinstance(log, bool) or not (integer is None or isinstance(integer, bool)):
        raise checks.fail(key, 'a range whose log and integer are True or False', value)
    if log and low <= 0:
        raise checks.fail(key, 'above 0 at its low end with log=True', value)
    are_integers = isinstance(low, int) and isinstance(high, int)
    if integer and not are_integers:
        raise checks.fail(key, 'integers at both ends with integer=True', value)
    if integer is False or not are_integers:
        return Range(float(low), float(high), log, integer=False)
    return Range(low, high, log, integer)


def _entries(key: str, value: Any, rule: str) -> dict[str, Any]:
    """Return what is given of a range by the name of its field; without a word, the config says what is an integer."""
    if isinstance(value, Range):
        return asdict(value)
    if not isinstance(value, Mapping):
        pair = checks.sequence(key, value, rule)
        if len(pair) != 2:
            raise checks.fail(key, rule, value)
        return {'low': pair[0], 'high': pair[1], 'integer': None}
    names = [field.name for field in fields(Range)]
    for name in value:
        if name not in names:
            raise ConfigError(
                f'search.{key}: a range has no {name!r}{nearest(str(name), names)} (it has: {", ".join(names)})'
            )
    return {'low': None, 'high': None, 'integer': None, **value}
