"""Draws a chart with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isnan
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmfixnorm.plot.chart import GRID_COLUMNS, Chart, Estimate, HeatMap, Panel
from mmfixnorm.plot.palette import MARKERS, colour, white_on

_PANEL_INCHES = (6.4, 4.2)
_GRID_INCHES = (3.6, 3.1)  # of one panel
_INK = {'light': '#1f2328', 'dark': '#e6edf3'}
_MARKERS = {'row': 's', 'column': 'o'}


def draw_png(chart: Chart) -> Figure:
    """Draw a chart as a matplotlib figure on the Agg canvas, which needs no display."""
    if isinstance(chart.panels, HeatMap):
        figure, ((axes,),) = _subplots(1, 1)
        _draw_heat_map(figure, axes, chart.panels)
    elif chart.arrangement == 'grid':
        figure = _draw_grid(chart.panels, chart.legend)
    else:
        count = len(chart.panels)
        stacked = chart.arrangement == 'stacked'
        figure, grid = _subplots(count if stacked else 1, 1 if stacked else count, share_x=stacked)
        _draw_panels([axes for row in grid for axes in row], chart.panels, stacked=stacked)
    figure.suptitle(chart.title)
    return figure


def save_svg(chart: Chart, path: Path, ink: str) -> None:
    """Save a chart as SVG: ``'light'`` has a white background and can be read anywhere, ``'dark'`` is for dark pages.

    The notes of the chart are in the file's description. The same chart gives the same bytes.
    """
    of = _INK[ink]
    keys = ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color')
    settings: dict[Any, Any] = {**dict.fromkeys(keys, of), 'svg.hashsalt': chart.title}
    with rc_context(settings):
        about = {'Title': chart.title, 'Description': '\n'.join(chart.notes), 'Date': None}
        draw_png(chart).savefig(path, format='svg', transparent=ink == 'dark', metadata=about)


def _draw_grid(panels: Sequence[Panel], order: Sequence[str]) -> Figure:
    rows = ceil(len(panels) / GRID_COLUMNS)
    width, height = _GRID_INCHES
    full = len(panels) == rows * GRID_COLUMNS
    figure = Figure(figsize=(width * GRID_COLUMNS, height * (rows + 0.5 * full)), layout='constrained', dpi=120)
    FigureCanvasAgg(figure)
    places = [axes for row in figure.subplots(rows, GRID_COLUMNS, squeeze=False) for axes in row]
    entries: dict[str, Any] = {}
    for axes, panel in zip(places, panels, strict=False):
        _draw_panel(axes, panel)
        axes.set_xlabel(panel.x_title)
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    for axes in places[len(panels) :]:
        axes.axis('off')
    names = sorted(entries, key=lambda name: order.index(name) if name in order else len(order))
    handles = [entries[name] for name in names]
    shown: dict[str, Any] = dict(handles=handles, labels=names, fontsize='small', frameon=False)
    if full:
        figure.legend(loc='outside lower center', ncols=GRID_COLUMNS, **shown)
    else:
        places[len(panels)].legend(loc='center', **shown)
    return figure


def _subplots(rows: int, columns: int, *, share_x: bool = False) -> tuple[Figure, list[list[Axes]]]:
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * (0.75 * rows + 0.25)), layout='constrained', dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=share_x).tolist()


def _draw_panels(all_axes: Sequence[Axes], panels: Sequence[Panel], *, stacked: bool) -> None:
    named: set[str] = set()
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_panel(axes, panel)
        if not stacked or panel is panels[-1]:
            axes.set_xlabel(panel.x_title)
        handles = {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        new = {text: handle for text, handle in handles.items() if text not in named}
        if new:
            axes.legend(new.values(), new.keys(), fontsize='small')
        named |= set(new)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_ylabel(panel.y_title)
    axes.set_title(panel.title)
    axes.grid(alpha=0.3)
    for line in panel.lines:
        axes.plot(
            line.x,
            line.y,
            label=line.name or '_unnamed',
            color=colour(line.colour),
            linestyle='--' if line.dashed else '-',
            linewidth=1 if line.dashed else 1.6,
            marker='o' if line.markers else None,
            markersize=4,
            drawstyle='steps-post' if line.steps else 'default',
        )
        if line.band:
            axes.fill_between(line.x, *line.band, color=colour(line.colour), alpha=0.2, linewidth=0)
    for star in panel.stars:
        axes.plot(star.x, star.y, '*', label=star.name, color=colour(star.colour), markersize=14)
    for estimate in panel.estimates:
        _draw_estimate(axes, panel, estimate)
    if panel.y_range:
        axes.set_ylim(*panel.y_range)
    if panel.log_x:
        axes.set_xscale('log')
    if panel.x_range:
        axes.set_xlim(*panel.x_range)
    if panel.x_names:
        axes.set_xticks(range(len(panel.x_names)), panel.x_names)
    left = axes.get_xlim()[0]
    for boundary in panel.boundaries:
        axes.axvline(boundary.x, color=colour(boundary.colour), linestyle=':')
        if boundary.shaded:
            axes.axvspan(left, boundary.x, color=colour(boundary.colour), alpha=0.08, linewidth=0)
            axes.set_xlim(left=left)
        axes.annotate(
            boundary.text,
            (boundary.x, 1),
            (4, -4),
            xycoords=('data', 'axes fraction'),
            textcoords='offset points',
            va='top',
        )


def _draw_estimate(axes: Axes, panel: Panel, estimate: Estimate) -> None:
    ink = colour(estimate.colour)
    y, error = estimate.y, [[estimate.y - estimate.low], [estimate.high - estimate.y]]
    if beyond := panel.beyond(y):
        y, text = beyond
        error = [[0.0], [0.0]]
        beside = axes.annotate(text, (estimate.x, y), (6, 0), textcoords='offset points', va='center')
        beside.set(fontsize='small', color=ink)
    axes.errorbar(
        [estimate.x],
        [y],
        yerr=error,
        label=estimate.name,
        linestyle='none',
        color=ink,
        marker=MARKERS[estimate.marker][0],
        markersize=6,
        markerfacecolor=ink if estimate.filled else 'none',
        elinewidth=1.2,
    )


def _draw_heat_map(figure: Figure, axes: Axes, table: HeatMap) -> None:
    image = axes.imshow(table.values, cmap='viridis', aspect='auto')
    axes.set_facecolor('lightgrey')
    figure.colorbar(image, ax=axes, label=table.value_title)
    axes.set_xticks(range(len(table.columns)), table.columns)
    axes.set_yticks(range(len(table.rows)), table.rows)
    axes.set_xlabel(table.x_title)
    axes.set_ylabel(table.y_title)
    for i, (values, texts) in enumerate(zip(table.values, table.texts, strict=True)):
        for j, (value, text) in enumerate(zip(values, texts, strict=True)):
            light = not isnan(value) and white_on(value, table.values)
            axes.text(j, i, text, ha='center', va='center', color='white' if light else 'black')
    _mark(axes, [(j, i) for i, j in enumerate(table.row_best) if j is not None], 'row', table.row_best_name)
    _mark(axes, [(j, i) for j, i in enumerate(table.column_best) if i is not None], 'column', table.column_best_name)
    figure.legend(loc='outside lower center', ncols=2, fontsize='small', markerscale=0.3)


def _mark(axes: Axes, cells: Sequence[tuple[int, int]], kind: str, name: str) -> None:
    x, y = [j for j, _ in cells], [i for _, i in cells]
    axes.scatter(x, y, s=1500, marker=_MARKERS[kind], facecolors='none', edgecolors='red', linewidths=1.5, label=name)
