"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

_DIGITS = 4  # of the largest number of a column: metrics in percent get two decimals
_LEAST_DIGITS = 2  # of the smallest one
_WIDE = 1e3  # a column that spans more than this is written by significant digits


def column(values: Sequence[float | None]) -> list[str]:
    """Write numbers with one number of decimals; None is an empty cell.

    The largest one gets four significant digits, the smallest at least two, and zeros at the end that all of them have
    are left out. Numbers that span more than a factor of 1000 have three significant digits each instead.

    Example:
        >>> column([53.333335876464844, 60.0, None])
        ['53.33', '60.00', '']
        >>> column([0.8, 1.4, 2.0])
        ['0.8', '1.4', '2.0']
        >>> column([1e-05, 0.0137])
        ['1.00e-05', '0.0137']
    """
    known = [v for v in values if v is not None]
    sizes = [abs(v) for v in known if v and math.isfinite(v)]
    if sizes and max(sizes) > _WIDE * min(sizes):
        return ['' if v is None else f'{v:#.3g}' if v else '0' for v in values]
    decimals = 0
    if sizes:
        largest, smallest = (math.floor(math.log10(size)) for size in (max(sizes), min(sizes)))
        decimals = max(0, _DIGITS - 1 - largest, _LEAST_DIGITS - 1 - smallest)
    while decimals and all(f'{v:.{decimals}f}'.endswith('0') for v in known if math.isfinite(v)):
        decimals -= 1
    return ['' if v is None else f'{v:.{decimals}f}' for v in values]


def tidy(value: float, low: float, high: float) -> float:
    """Keep ten digits, so that 0.8 is 0.8 and not 0.8000000000000002, and stay in the range."""
    return min(max(float(f'{value:.10g}'), low), high)
