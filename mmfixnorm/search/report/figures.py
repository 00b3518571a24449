"""Draw the curves of a search; compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mmfixnorm.plot.html import STAR, new_figure
from mmfixnorm.plot.palette import colour
from mmfixnorm.search.record.state import Progress
from mmfixnorm.search.report.curves import AlphaCurve, LrCurve, PointMap, ValidationCurve

_SIZE = dict(height=420, margin=dict(l=60, r=20, t=50, b=50))
_MANY = 200  # from here on markers are only blots


def draw_lr_curves(curves: Sequence[LrCurve], metric: str) -> go.Figure:
    """Draw the metric against learning rate; a shaded band under each round shows the range it searched."""
    figure = new_figure(f'{metric} against learning rate', **_SIZE)
    figure.update_layout(yaxis_title=metric, yaxis_domain=[0.22, 1])
    figure.update_layout(xaxis_title='learning rate', xaxis_anchor='y2')  # below the ranges
    figure.update_layout(yaxis2=dict(domain=[0, 0.16], anchor='x', title='range', autorange='reversed'))
    for i, curve in enumerate(curves):
        ink = colour(i)
        figure.add_scatter(
            x=curve.lrs,
            y=curve.values,
            name=curve.name,
            mode='lines+markers' if curve.joined else 'markers',
            line_color=ink,
            marker_size=8,
            connectgaps=False,
        )
        figure.add_scatter(  # the bound that shrinks
            x=[curve.lr_min, curve.lr_max],
            y=[curve.name, curve.name],
            yaxis='y2',
            mode='lines',
            line=dict(color=ink, width=8),
            opacity=0.4,
            showlegend=False,
            hovertemplate='%{x}',
        )
        if curve.best_lr is not None:
            figure.add_scatter(
                x=[curve.best_lr],
                y=[curve.values[curve.lrs.index(curve.best_lr)]],
                mode='markers',
                marker=dict(STAR, color=ink),
                name=f'{curve.name}: best' + (', bound of the next' if i + 1 < len(curves) else ''),
            )
        if curve.diverged:
            figure.add_scatter(
                x=curve.diverged,
                y=[curve.name] * len(curve.diverged),
                yaxis='y2',
                mode='markers',
                marker=dict(color='firebrick', size=9, symbol='x'),
                name=f'{curve.name}: diverged',
            )
    return figure


def draw_alpha_curves(curves: Sequence[AlphaCurve], metric: str) -> go.Figure:
    """Draw the metric against alpha, on a log axis."""
    figure = new_figure(f'{metric} against alpha', **_SIZE)
    figure.update_layout(xaxis_title='alpha', yaxis_title=metric)
    alphas = sorted({a for curve in curves for a in curve.alphas})
    figure.update_xaxes(type='log', tickvals=alphas, ticktext=[f'{a:g}' for a in alphas])
    for i, curve in enumerate(curves):
        figure.add_scatter(
            x=curve.alphas,
            y=curve.values,
            name=f'lr {curve.lr:g}',
            mode='lines+markers',
            line_color=colour(i),
            marker_size=8,
            customdata=curve.lengths,
            hovertemplate='alpha %{x}: %{y}<br>length %{customdata:g} T_max',
            showlegend=True,
        )
    return figure


def draw_point_map(points: PointMap, metric: str) -> go.Figure:
    """Draw the points in the plane of the two numbers, both on a log axis; the colour is the value."""
    figure = new_figure(f'{metric} against learning rate and {points.other}', **_SIZE)
    figure.update_xaxes(type='log', title='learning rate')
    figure.update_yaxes(type='log', title=points.other)
    diverged = [value is None for value in points.values]
    for name, wanted, marker in (
        ('finished', False, dict(size=12, colorscale='Viridis', showscale=True, colorbar_title=metric)),
        ('diverged', True, dict(size=10, symbol='x', color='firebrick')),
    ):
        chosen = [i for i, is_diverged in enumerate(diverged) if is_diverged is wanted]
        values = [points.values[i] for i in chosen]
        figure.add_scatter(
            x=[points.lrs[i] for i in chosen],
            y=[points.others[i] for i in chosen],
            mode='markers',
            name=name,
            marker=marker if wanted else dict(marker, color=values),
            text=[points.keys[i] for i in chosen],
            customdata=[[value, points.lengths[i]] for value, i in zip(values, chosen, strict=True)],
            hovertemplate='%{text}: %{x}, %{y}<br>%{customdata[0]}, length %{customdata[1]:g} T_max',
            showlegend=False,
        )
    return figure


def draw_progress(progress: Mapping[str, Progress], metric: str) -> go.Figure:
    """Draw the best value so far against cost (Fig. 5, left): one line for each search, by its name."""
    figure = new_figure(f'best {metric} so far against cost', **_SIZE)
    figure.update_layout(xaxis_title='cost in T_max', yaxis_title=metric)
    for i, (name, (cost, best)) in enumerate(progress.items()):
        figure.add_scatter(
            x=cost,
            y=best,
            mode='lines+markers' if len(cost) <= _MANY else 'lines',
            line=dict(shape='hv', color=colour(i)),
            name=name,
            hovertemplate='%{y} after %{x} T_max',
        )
    figure.update_layout(showlegend=len(progress) > 1)
    figure.update_xaxes(rangemode='tozero')
    return figure


def draw_validation_curves(curves: Sequence[ValidationCurve], metric: str, unit: str) -> go.Figure:
    """Draw the metric against epochs or iterations; the trials of a stage have one colour."""
    figure = new_figure(f'{metric} in the course of each training', **_SIZE)
    figure.update_layout(xaxis_title=unit, yaxis_title=metric, hovermode='closest')
    for i, stage in enumerate(dict.fromkeys(curve.stage for curve in curves)):
        of_stage = [curve for curve in curves if curve.stage == stage]
        # One trace, with gaps: a browser draws thousands of curves at once, not thousands of traces.
        figure.add_scatter(
            x=[x for curve in of_stage for x in (*curve.steps, None)],
            y=[y for curve in of_stage for y in (*curve.values, None)],
            text=[curve.key for curve in of_stage for _ in (*curve.steps, None)],
            name=stage,
            mode='lines+markers' if len(of_stage) <= _MANY else 'lines',
            line=dict(color=colour(i), width=1.5 if len(of_stage) <= _MANY else 0.5),
            marker_size=4,
            connectgaps=False,
            hovertemplate='%{text}: %{y} at %{x}',
            showlegend=True,
        )
    return figure
