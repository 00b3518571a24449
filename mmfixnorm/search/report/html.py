"""The tables of a report."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from mmfixnorm.search._utils.numbers import column


class Markup(str):
    """Text that is HTML already."""


def text(value: object) -> str:
    """Return a value as HTML: escaped unless it is :class:`Markup`, empty for None."""
    if isinstance(value, Markup):
        return value
    return '' if value is None else html.escape(str(value))


def table(names: Sequence[str], rows: Iterable[tuple[str, Sequence[object]]]) -> str:
    """Return a table; each row is its CSS class, or '', and its cells.

    Columns of numbers are right-aligned, and the floats of a column have one number of decimals.
    """
    rows = list(rows)
    numeric = [all(_is_number(cells[i]) for _, cells in rows) for i in range(len(names))]
    rows = _with_one_number_of_decimals(rows)
    kinds = [' class="number"' if right else '' for right in numeric]
    lines = [
        '<table><tr>' + ''.join(f'<th{k}>{html.escape(n)}</th>' for n, k in zip(names, kinds, strict=True)) + '</tr>'
    ]
    for css, cells in rows:
        opened = f'<tr class="{css}">' if css else '<tr>'
        lines.append(opened + ''.join(f'<td{k}>{text(c)}</td>' for c, k in zip(cells, kinds, strict=True)) + '</tr>')
    return '\n'.join([*lines, '</table>'])


def _with_one_number_of_decimals(rows: list[tuple[str, Sequence[object]]]) -> list[tuple[str, Sequence[object]]]:
    columns = [list(cells) for cells in zip(*(cells for _, cells in rows), strict=True)]
    for cells in columns:
        places = [i for i, cell in enumerate(cells) if isinstance(cell, float)]
        for i, shown in zip(places, column([cells[i] for i in places]), strict=True):
            cells[i] = shown
    return [(css, cells) for (css, _), cells in zip(rows, zip(*columns, strict=True), strict=True)]


def _is_number(value: object) -> bool:
    if isinstance(value, Markup):
        return False
    return value is None or isinstance(value, (int, float)) or not value or str(value)[0].isdigit()


def warning(message: str) -> str:
    """Return a paragraph that stands out."""
    return f'<p class="warning">{html.escape(message)}</p>'
