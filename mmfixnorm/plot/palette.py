"""The colours of all figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from plotly.colors import qualitative

_COLOURS = qualitative.D3  # the default colours of matplotlib, and the colours of a search's report


def colour(place: int) -> str:
    """Return a colour as ``#rrggbb``; the palette repeats after ten."""
    return str(_COLOURS[place % len(_COLOURS)])


#: Shapes of markers, as matplotlib and as plotly name them.
MARKERS = (
    ('o', 'circle'),
    ('s', 'square'),
    ('^', 'triangle-up'),
    ('D', 'diamond'),
    ('v', 'triangle-down'),
    ('P', 'cross'),
    ('X', 'x'),
    ('p', 'pentagon'),
)


def white_on(value: float, values: Sequence[Sequence[float]]) -> bool:
    """Tell whether text on a cell of a heat map should be white: Viridis is dark at its lower end."""
    low, high = np.nanmin(values), np.nanmax(values)
    return bool(value < low + 0.55 * (high - low))
