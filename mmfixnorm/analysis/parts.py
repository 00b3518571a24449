"""The two parts of the norm's curve under weight decay (section 2.2, Fig. 1 left)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The minimum number of measurements for finding a boundary.
MIN_POINTS = 6
#: The norm must fall by at least this fraction in the first part ...
MIN_FALL = 0.01
#: ... and its slope must be at least this many times the slope of the second part.
MIN_RATIO = 2.0


class BrokenLine(NamedTuple):
    """Two straight lines that meet at ``knot``; slopes are per unit of x, ``fit`` is at the measured positions."""

    knot: float
    before: float
    after: float
    fit: list[float]


class NormParts(NamedTuple):
    """Whether and where the curve of a norm splits into a rapid decrease and a slow change.

    Attributes:
        line: Broken line through the log of the norm; None if there are too few measurements.
        norms: The measured norm at the start, at the boundary and at the end.
        absence: The reason why these are not the two parts of section 2.2; '' if they are.
    """

    line: BrokenLine | None
    norms: tuple[float, float, float] | None
    absence: str


def broken_line(x: Sequence[float], y: Sequence[float]) -> BrokenLine:
    """Fit a continuous line with one knot, by least squares.

    The knot is one of the inner positions, with at least two measurements on each side.

    Raises:
        ValueError: If there are fewer than five measurements.
    """
    positions, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(positions) < 5:
        raise ValueError(f'a broken line needs at least 5 measurements, got {len(positions)}')
    best: tuple[float, float, NDArray[np.float64], NDArray[np.float64]] | None = None
    for knot in positions[2:-2]:
        basis = np.stack([np.ones_like(positions), positions - knot, np.maximum(positions - knot, 0)], axis=1)
        coefficients = np.linalg.lstsq(basis, values, rcond=None)[0]
        fit = basis @ coefficients
        error = float(np.square(values - fit).sum())
        if best is None or error < best[0]:
            best = error, float(knot), coefficients, fit
    assert best is not None
    _, knot, (_, before, bend), fit = best
    return BrokenLine(knot, float(before), float(before + bend), fit.tolist())


def norm_parts(x: Sequence[float], norm: Sequence[float]) -> NormParts:
    """Find the two parts: first a rapid decrease, then a slow change.

    The boundary is the knot of :func:`broken_line` through the log of the norm, so that slopes are relative changes.
    There are two parts if the norm falls by 1 % or more up to the boundary and the first slope is at least twice as
    steep as the second.

    Args:
        x: Positions in ascending order.
        norm: The norm at these positions.
    """
    if len(x) < MIN_POINTS:
        return NormParts(None, None, f'{len(x)} measurements are too few to find two parts (at least {MIN_POINTS})')
    if not all(np.isfinite(norm)) or min(norm) <= 0:
        return NormParts(None, None, 'the norm is not finite and positive everywhere')
    line = broken_line(x, np.log(norm).tolist())
    middle = norm[list(x).index(line.knot)]
    norms = (norm[0], middle, norm[-1])
    return NormParts(line, norms, _absence(line, norms))


def _absence(line: BrokenLine, norms: tuple[float, float, float]) -> str:
    start, middle, _ = norms
    if line.before >= 0 and line.after >= 0:
        return 'no two parts: the norm grows, both lines of the fit rise'
    if line.before >= 0 or middle > (1 - MIN_FALL) * start:
        return f'no two parts: the norm does not fall at first (boundary at {line.knot:g}, {change(start, middle)})'
    if abs(line.before) < MIN_RATIO * abs(line.after):
        return f'no two parts: after the boundary at {line.knot:g} the norm changes as fast as before'
    return ''


def change(start: float, end: float) -> str:
    """Format a change as ``80 -> 60``, with the relative change."""
    return f'{start:.4g} -> {end:.4g}, {100 * (end / start - 1):+.1f} %'
