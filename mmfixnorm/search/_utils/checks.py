"""Checks of single values of a ``search`` block.

Each returns the value in its final form, or raises :class:`ConfigError` with the key, the rule and the value found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from mmfixnorm.errors import ConfigError


def fail(key: str, rule: str, found: Any) -> ConfigError:
    """Make the error for a value that breaks its rule."""
    return ConfigError(f'search.{key}: must be {rule}, got {found!r}')


def finite(key: str, value: Any, rule: str) -> float:
    """Check for a finite number; ``rule`` is for the message."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise fail(key, rule, value)
    return float(value)


def positive(key: str, value: Any) -> float:
    """Check for a finite number above 0."""
    rule = 'a finite number > 0'
    number = finite(key, value, rule)
    if number <= 0:
        raise fail(key, rule, value)
    return number


def integer(key: str, value: Any, *, at_least: int) -> int:
    """Check for an integer that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise fail(key, f'an integer >= {at_least}', value)
    return value


def boolean(key: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise fail(key, 'True or False', value)
    return value


def budget(value: Any) -> float | str | None:
    """Check for a number of T_max, a time such as ``'8h'``, or None."""
    rule = "a finite number of T_max > 0, or a time such as '8h' or '30min'"
    if value is None:
        return None
    if isinstance(value, str):
        if not seconds(value):
            raise fail('budget', rule, value)
        return value
    if finite('budget', value, rule) <= 0:
        raise fail('budget', rule, value)
    return float(value)


def seconds(text: str) -> float:
    """Read a time such as ``8h`` or ``30min``, in seconds; 0 if it is none.

    Example:
        >>> seconds('1.5h'), seconds('30min'), seconds('soon')
        (5400.0, 1800.0, 0.0)
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?) *(h|min)', text.strip())
    return float(match[1]) * {'h': 3600.0, 'min': 60.0}[match[2]] if match else 0.0


def sequence(key: str, value: Any, rule: str) -> Sequence[Any]:
    """Check for a non-empty list or tuple; ``rule`` is for the message."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise fail(key, rule, value)
    return value


def distinct_positives(key: str, value: Any) -> tuple[float, ...]:
    """Check for distinct numbers above 0."""
    rule = 'a non-empty list of distinct finite numbers > 0'
    numbers = tuple(positive(key, v) for v in sequence(key, value, rule))
    if len(set(numbers)) != len(numbers):
        raise fail(key, rule, value)
    return numbers


def positive_range(key: str, value: Any) -> tuple[float, float]:
    """Check for a pair of rising numbers above 0, under a key such as ``lr_range``."""
    name = key.removesuffix('_range')
    rule = f'a pair ({name}_min, {name}_max) with 0 < {name}_min < {name}_max'
    pair = sequence(key, value, rule)
    if len(pair) != 2:
        raise fail(key, rule, value)
    low, high = (finite(key, v, rule) for v in pair)
    if not 0 < low < high:
        raise fail(key, rule, value)
    return low, high


def lr_range(value: Any) -> tuple[float, float] | str:
    """Check for a range of the learning rate, or for ``'auto'``."""
    if isinstance(value, str):
        if value != 'auto':
            raise fail('lr_range', "a pair (lr_min, lr_max) with 0 < lr_min < lr_max, or 'auto'", value)
        return value
    return positive_range('lr_range', value)


def fractions(key: str, value: Any) -> tuple[float, ...]:
    """Check for fractions of a schedule, none smaller than the one before it."""
    rule = 'a list of numbers in (0, 1], none smaller than the one before it'
    numbers = tuple(finite(key, v, rule) for v in sequence(key, value, rule))
    if any(not 0 < n <= 1 for n in numbers) or list(numbers) != sorted(numbers):
        raise fail(key, rule, value)
    return numbers


def dotted_keys(key: str, value: Any, root: str) -> tuple[str, ...]:
    """Check for one dotted key of the config below ``root``, or several."""
    rule = f"a dotted key of the config that starts with '{root}.', or a list of such keys"
    names = (value,) if isinstance(value, str) else tuple(sequence(key, value, rule))
    if any(not isinstance(n, str) or not n.startswith(f'{root}.') for n in names):
        raise fail(key, rule, value)
    return names


def distinct_keys(key: str, value: Any) -> tuple[str, ...]:
    """Check for any number of different dotted keys of the config; one may stand without a list."""
    names = (value,) if isinstance(value, str) else value
    is_list = isinstance(names, Sequence) and all(isinstance(n, str) and n for n in names)
    if not is_list or len(set(names)) != len(names):
        raise fail(key, 'a dotted key of the config, or a list of different ones', value)
    return tuple(names)


def one_of(key: str, value: Any, valid: Sequence[str]) -> None:
    """Check for one of these names."""
    if value not in valid:
        raise fail(key, ' or '.join(map(repr, valid)), value)
