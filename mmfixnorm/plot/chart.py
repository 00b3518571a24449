"""A figure as plain data, described once and drawn as PNG and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

GRID_COLUMNS = 3


@dataclass(frozen=True)
class Line:
    """One curve. NaN in ``y`` is a gap.

    Attributes:
        name: Entry of the legend; '' for none. The legend of a chart lists each name once.
        x: Positions in ascending order.
        y: Values.
        colour: Index into the palette.
        band: Lower and upper ends of a shaded band around the curve.
        dashed: Whether it is dashed.
        markers: Whether each point is marked.
        steps: Whether a value holds until the next position.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    band: tuple[Sequence[float], Sequence[float]] | None = None
    dashed: bool = False
    markers: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Star:
    """A highlighted point, e.g. the best of a curve."""

    name: str
    x: float
    y: float
    colour: int = 0


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        name: Entry of the legend, which lists each name once.
        x: Position.
        y: Value.
        low: Lower end of the interval.
        high: Its upper end.
        colour: Index into the palette.
        marker: Index into the markers, so that a figure without colours can be read too.
        filled: Whether the marker is filled.
    """

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: int = 0
    marker: int = 0
    filled: bool = True


@dataclass(frozen=True)
class Boundary:
    """A vertical line, with the part of the panel to its left shaded if ``shaded``."""

    x: float
    text: str
    colour: int = 0
    shaded: bool = True


@dataclass(frozen=True)
class Panel:
    """Curves and estimates over one pair of axes.

    With ``y_range``, intervals are cut at its ends, and an estimate beyond them stands there with its value beside it.
    With ``log_x`` the x axis is logarithmic, ``x_range`` are its ends, and ``x_names`` name its positions 0, 1, ...
    """

    x_title: str
    y_title: str
    lines: Sequence[Line]
    title: str = ''
    stars: Sequence[Star] = ()
    boundaries: Sequence[Boundary] = ()
    estimates: Sequence[Estimate] = ()
    y_range: tuple[float, float] | None = None
    log_x: bool = False
    x_range: tuple[float, float] | None = None
    x_names: Sequence[str] = ()

    def beyond(self, y: float) -> tuple[float, str] | None:
        """Where a value that is not in view stands, and what is written beside it; None for one in view."""
        if self.y_range is None or self.y_range[0] <= y <= self.y_range[1]:
            return None
        low, high = self.y_range
        margin = 0.05 * (high - low)
        return (low + margin, f'↓ {y:.1f}') if y < low else (high - margin, f'↑ {y:.1f}')


@dataclass(frozen=True)
class HeatMap:
    """A table with coloured cells; the first row is at the top.

    Attributes:
        x_title: Title of the columns.
        y_title: Title of the rows.
        value_title: Title of the values.
        columns: Names of the columns, from left to right.
        rows: Names of the rows, from top to bottom.
        values: One sequence for each row; NaN leaves a cell grey.
        texts: Text of each cell.
        row_best: Column of each row's best value; None for a row without one.
        column_best: Row of each column's best value; None for a column without one.
        row_best_name: Entry of the legend for the former.
        column_best_name: Entry of the legend for the latter.
    """

    x_title: str
    y_title: str
    value_title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float]]
    texts: Sequence[Sequence[str]]
    row_best: Sequence[int | None]
    column_best: Sequence[int | None]
    row_best_name: str
    column_best_name: str


@dataclass(frozen=True)
class Chart:
    """One figure and the notes on it.

    Attributes:
        title: Title of the figure.
        panels: Its panels, or one heat map.
        arrangement: ``'stacked'`` draws the panels below each other over one x axis, ``'row'`` side by side, ``'grid'``
            in rows of ``GRID_COLUMNS``, with the legend in the place behind the last, or below if there is none.
        legend: Entries in their order, for a grid; those that are not listed come last.
        notes: Sentences with the numbers, which the tools print and which appear below the HTML figure.
    """

    title: str
    panels: Sequence[Panel] | HeatMap
    arrangement: Literal['stacked', 'row', 'grid'] = 'row'
    notes: Sequence[str] = field(default=())
    legend: Sequence[str] = field(default=())
