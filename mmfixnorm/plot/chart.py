"""A figure as plain data: described once, drawn as PNG and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Line:
    """One curve. NaN in ``y`` is a gap.

    Attributes:
        name: Entry of the legend; '' for none. The same name is listed once per chart.
        x: Positions, rising.
        y: Values.
        colour: Place in the palette.
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
    """A point to look at, e.g. the best of a curve."""

    name: str
    x: float
    y: float
    colour: int = 0


@dataclass(frozen=True)
class Boundary:
    """A vertical line, with the part of the panel to its left shaded if ``shaded``."""

    x: float
    text: str
    colour: int = 0
    shaded: bool = True


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes."""

    x_title: str
    y_title: str
    lines: Sequence[Line]
    title: str = ''
    stars: Sequence[Star] = ()
    boundaries: Sequence[Boundary] = ()


@dataclass(frozen=True)
class HeatMap:
    """A table with coloured cells; the first row is drawn at the top.

    Attributes:
        x_title: What the columns are.
        y_title: What the rows are.
        value_title: What the values are.
        columns: Names of the columns, from left to right.
        rows: Names of the rows, from top to bottom.
        values: One sequence for each row; NaN leaves a cell grey.
        texts: What is written in each cell.
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
    """One figure and what there is to say about it.

    Attributes:
        title: Above everything.
        panels: Its panels, or one heat map.
        arrangement: ``'stacked'`` puts the panels below each other over one x axis, ``'row'`` beside each other.
        notes: Sentences with the numbers, printed by the tools and written below the HTML figure.
    """

    title: str
    panels: Sequence[Panel] | HeatMap
    arrangement: Literal['stacked', 'row'] = 'row'
    notes: Sequence[str] = field(default=())
