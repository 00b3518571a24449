"""Colours that the two renderings of a chart share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from plotly.colors import qualitative

_COLOURS = qualitative.D3  # matplotlib's default colours, and those of a search's report


def colour(place: int) -> str:
    """A colour as ``#rrggbb``; the palette starts over after ten."""
    return str(_COLOURS[place % len(_COLOURS)])


def white_on(value: float, values: Sequence[Sequence[float]]) -> bool:
    """Whether text on a cell of a heat map should be white: Viridis is dark at its lower end."""
    low, high = np.nanmin(values), np.nanmax(values)
    return bool(value < low + 0.55 * (high - low))
