"""Draws a chart with plotly, as one HTML file that opens without a network."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from math import ceil, isnan, log10
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mmfixnorm.plot.chart import GRID_COLUMNS, Chart, Estimate, HeatMap, Line, Panel
from mmfixnorm.plot.page import Page
from mmfixnorm.plot.palette import MARKERS, colour, white_on

_PANEL_PIXELS = (620, 420)
_STAR = dict(symbol='star', size=15)
_LARGE_STAR = dict(symbol='star', size=18, color='gold', line=dict(color='black', width=1))


def new_figure(title: str, **layout: Any) -> go.Figure:
    """Make an empty figure in the style of all figures here."""
    return go.Figure(layout=go.Layout(template='plotly_white', title=title, **layout))


def add_star(figure: go.Figure, x: float, y: float, name: str, *, ink: str | None = None, **place: Any) -> None:
    """Mark a best point: in the colour of its curve, or as the one winner of a figure if it has none.

    Args:
        figure (go.Figure): It is added to this figure.
        x (float): Position.
        y (float): Position.
        name (str): Entry of the legend.
        ink (str, optional): Its colour.
        **place: ``row`` and ``col`` of a panel.
    """
    marker = dict(_STAR, color=ink) if ink else _LARGE_STAR
    figure.add_trace(go.Scatter(x=[x], y=[y], mode='markers', marker=marker, name=name, showlegend=True), **place)


def html_page(chart: Chart) -> str:
    """Write the whole page: the figure, including plotly's library, and the notes."""
    figure = draw_html(chart)
    page = Page(chart.title, width=max(700, figure.layout.width))
    page.add_figure(figure)
    page.add('<ul>', *(f'<li>{html.escape(note)}</li>' for note in chart.notes), '</ul>')
    return page.render()


def draw_html(chart: Chart) -> go.Figure:
    """Draw a chart as a plotly figure."""
    width, height = _PANEL_PIXELS
    if isinstance(chart.panels, HeatMap):
        figure = _draw_heat_map(chart.panels)
        figure.update_layout(width=1.2 * width, height=1.3 * height)
    else:
        count = len(chart.panels)
        arranged = {'stacked': (count, 1), 'row': (1, count), 'grid': (ceil(count / GRID_COLUMNS), GRID_COLUMNS)}
        rows, columns = arranged[chart.arrangement]
        stacked = chart.arrangement == 'stacked'
        titles = [panel.title for panel in chart.panels]
        spacing = min(0.06 if stacked else 0.14, 0.5 / max(rows - 1, 1))  # at most half of the height in all
        figure = make_subplots(rows, columns, shared_xaxes=stacked, subplot_titles=titles, vertical_spacing=spacing)
        for i, panel in enumerate(chart.panels):
            place = dict(row=i // columns + 1, col=i % columns + 1)
            _draw_panel(figure, panel, place)
            if not stacked or i == rows - 1:
                figure.update_xaxes(title=panel.x_title, **place)
        figure.update_layout(width=width * columns + 160, height=height * (0.75 * rows + 0.25))
    figure.update_layout(template='plotly_white', title=chart.title)
    return figure


def _draw_panel(figure: go.Figure, panel: Panel, place: dict[str, int]) -> None:
    for line in panel.lines:
        for trace in _traces(line):
            named = {trace.name for trace in figure.data if trace.showlegend}
            trace.showlegend = bool(trace.showlegend) and trace.name not in named
            figure.add_trace(trace, **place)
    for star in panel.stars:
        add_star(figure, star.x, star.y, star.name, ink=colour(star.colour), **place)
    for estimate in panel.estimates:
        beyond = panel.beyond(estimate.y)
        if beyond:
            figure.add_annotation(x=estimate.x, y=beyond[0], text=beyond[1], xshift=24, showarrow=False, **place)
        trace = _estimate(estimate, beyond[0] if beyond else estimate.y)
        trace.showlegend = trace.name not in {of.name for of in figure.data if of.showlegend}
        figure.add_trace(trace, **place)
    for boundary in panel.boundaries:
        left = min(line.x[0] for line in panel.lines)
        ink = colour(boundary.colour)
        figure.add_vline(boundary.x, line=dict(color=ink, dash='dot'), annotation_text=boundary.text, **place)
        if boundary.shaded:
            figure.add_vrect(left, boundary.x, fillcolor=ink, opacity=0.08, line_width=0, **place)
    figure.update_yaxes(title=panel.y_title, range=panel.y_range, **place)
    if panel.log_x:
        figure.update_xaxes(type='log', **place)
    if panel.x_range:
        ends = [log10(end) for end in panel.x_range] if panel.log_x else panel.x_range
        figure.update_xaxes(range=ends, **place)
    if panel.x_names:
        figure.update_xaxes(tickvals=[*range(len(panel.x_names))], ticktext=[*panel.x_names], **place)


def _estimate(of: Estimate, y: float) -> go.Scatter:
    ink, symbol = colour(of.colour), MARKERS[of.marker][1]
    above, below = (of.high - of.y, of.y - of.low) if y == of.y else (0.0, 0.0)
    return go.Scatter(
        x=[float(of.x)],
        y=[float(y)],
        error_y=dict(type='data', symmetric=False, array=[float(above)], arrayminus=[float(below)], color=ink),
        name=of.name,
        legendgroup=of.name,
        mode='markers',
        marker=dict(size=9, color=ink, symbol=symbol if of.filled else f'{symbol}-open'),
    )


def _traces(line: Line) -> Iterator[go.Scatter]:
    ink = colour(line.colour)
    x = list(line.x)
    if line.band:
        low, high = line.band
        ends = dict(x=x, mode='lines', line_width=0, hoverinfo='skip', showlegend=False, legendgroup=line.name)
        yield go.Scatter(y=_finite(high), **ends)
        yield go.Scatter(y=_finite(low), fill='tonexty', fillcolor=_transparent(ink), **ends)
    yield go.Scatter(
        x=x,
        y=_finite(line.y),
        name=line.name,
        legendgroup=line.name,
        showlegend=bool(line.name),
        mode='lines+markers' if line.markers else 'lines',
        line=dict(color=ink, dash='dash' if line.dashed else 'solid', shape='hv' if line.steps else 'linear'),
    )


def _draw_heat_map(table: HeatMap) -> go.Figure:
    figure = go.Figure()
    columns, rows = list(table.columns), list(table.rows)
    figure.add_heatmap(
        x=columns,
        y=rows,
        z=[_finite(values) for values in table.values],
        colorscale='Viridis',
        colorbar_title=table.value_title,
        hovertemplate='%{x}, %{y}: %{z}<extra></extra>',
    )
    for row, values, texts in zip(rows, table.values, table.texts, strict=True):
        for column, value, text in zip(columns, values, texts, strict=True):
            ink = 'white' if not isnan(value) and white_on(value, table.values) else 'black'
            shown = html.escape(text).replace('\n', '<br>')
            figure.add_annotation(x=column, y=row, text=shown, showarrow=False, font_color=ink)
    row_cells = [(columns[j], rows[i]) for i, j in enumerate(table.row_best) if j is not None]
    column_cells = [(columns[j], rows[i]) for j, i in enumerate(table.column_best) if i is not None]
    figure.add_trace(_marks(row_cells, 'square-open', table.row_best_name))
    figure.add_trace(_marks(column_cells, 'circle-open', table.column_best_name))
    figure.update_xaxes(title=table.x_title, showgrid=False)
    figure.update_yaxes(title=table.y_title, autorange='reversed', showgrid=False)
    figure.update_layout(plot_bgcolor='lightgrey', legend=dict(orientation='h', y=-0.2))
    return figure


def _marks(cells: Sequence[tuple[str, str]], symbol: str, name: str) -> go.Scatter:
    marker = dict(symbol=symbol, size=46, color='red', line_width=2)
    x, y = [column for column, _ in cells], [row for _, row in cells]
    return go.Scatter(x=x, y=y, mode='markers', marker=marker, name=name, hoverinfo='skip')


def _finite(values: Sequence[float]) -> list[float | None]:
    """Convert values to plain numbers, which the page contains as text; NaN becomes a gap."""
    return [None if isnan(value) else float(value) for value in values]


def _transparent(ink: str) -> Any:
    red, green, blue = (int(ink[i : i + 2], 16) for i in (1, 3, 5))
    return f'rgba({red}, {green}, {blue}, 0.2)'
