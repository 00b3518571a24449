"""Draw the curves of a search; compute nothing.

With plotly itself and not as a :class:`mmfixnorm.plot.chart.Chart`: what a browser says of a point, names on an axis
and the ranges below another figure have no counterpart in a PNG. Styles, stars, colours and the page are those of
:mod:`mmfixnorm.plot`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mmfixnorm.plot.html import add_star, new_figure
from mmfixnorm.plot.palette import colour
from mmfixnorm.search.record.state import Progress
from mmfixnorm.search.report.curves import (
    AlphaCurve,
    FitCurve,
    Leader,
    LrCurve,
    PointMap,
    RampCurve,
    Slice,
    ValidationCurve,
)

_SIZE = dict(height=420, margin=dict(l=60, r=20, t=50, b=50))
_VALUE = '%{y:.5g}'  # in the text that a browser shows of a point
_MANY = 200  # from here on markers are only blots


def draw_lr_curves(curves: Sequence[LrCurve], metric: str, leading: Leader | None = None) -> go.Figure:
    """Draw the metric against learning rate, on a log axis; a band under each round shows the range it searched."""
    figure = new_figure(f'{metric} against learning rate', **_SIZE)
    figure.update_layout(yaxis_title=metric, yaxis_domain=[0.22, 1])
    figure.update_layout(xaxis_title='learning rate', xaxis_anchor='y2')  # below the ranges
    _use_log_axis(figure, [lr for curve in curves for lr in (curve.lr_min, curve.lr_max, *curve.lrs)])
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
            hovertemplate=f'lr %{{x:.4g}}: {_VALUE}',
        )
        figure.add_scatter(  # the bound that shrinks
            x=[curve.lr_min, curve.lr_max],
            y=[curve.name, curve.name],
            yaxis='y2',
            mode='lines',
            line=dict(color=ink, width=8),
            opacity=0.4,
            showlegend=False,
            hovertemplate='%{x:.4g}',
        )
        if curve.best_lr is not None:
            figure.add_scatter(
                x=[curve.best_lr],
                y=[curve.values[curve.lrs.index(curve.best_lr)]],
                mode='markers',
                marker=dict(symbol='circle-open', size=16, color=ink),
                hovertemplate=f'lr %{{x:.4g}}: {_VALUE}',
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
    if leading:
        add_star(figure, leading.best.point.lr, leading.best.value, leading.name)
    return figure


def add_fit(figure: go.Figure, fit: FitCurve) -> None:
    """Draw the fitted curve with its band into the figure over the learning rate."""
    line = dict(x=fit.lrs, line_color='grey', mode='lines', hovertemplate=f'lr %{{x:.4g}}: {_VALUE}')
    figure.add_scatter(y=fit.low, line_width=0, showlegend=False, **line)
    figure.add_scatter(y=fit.high, line_width=0, fill='tonexty', name='fit, one standard deviation', **line)
    figure.add_scatter(y=fit.means, line_dash='dot', name='fit', **line)


def draw_ramp(ramp: RampCurve) -> go.Figure:
    """Draw loss and angle of a ramp against the learning rate; the range that follows is shaded."""
    figure = new_figure('ramp of the learning rate', **_SIZE)
    figure.update_layout(yaxis_title='loss', xaxis_title='learning rate')
    figure.update_layout(yaxis2=dict(title='angle per step (rad)', overlaying='y', side='right', type='log'))
    _use_log_axis(figure, ramp.lrs)
    hover = f'lr %{{x:.4g}}: {_VALUE}'
    figure.add_scatter(x=ramp.lrs, y=ramp.losses, name='loss', line_color=colour(0), hovertemplate=hover)
    angles = {'angle per step': ramp.angles, 'of the layer that turns most': ramp.largest}
    for k, (name, angle) in enumerate((name, angle) for name, angle in angles.items() if angle):
        line = dict(x=ramp.lrs, y=angle, name=name, line_color=colour(1 + k))
        figure.add_scatter(yaxis='y2', hovertemplate=hover, **line)
    if ramp.lr_range:
        low, high = ramp.lr_range
        figure.add_vrect(x0=low, x1=high, fillcolor='grey', opacity=0.2, line_width=0, annotation_text='range')
    return figure


def _use_log_axis(figure: go.Figure, values: Sequence[float]) -> None:
    """Set a log axis with a tick at 1, 2 and 5 of each power of ten."""
    if not values:
        return
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [float(f'{digit}e{power}') for power in powers for digit in (1, 2, 5)]
    figure.update_xaxes(type='log', tickvals=ticks, ticktext=[f'{tick:g}' for tick in ticks])


def draw_alpha_curves(curves: Sequence[AlphaCurve], metric: str, leading: Leader | None = None) -> go.Figure:
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
            hovertemplate=f'alpha %{{x}}: {_VALUE}<br>length %{{customdata:g}} T_max',
            showlegend=True,
        )
    if leading and leading.best.point.alpha is not None:
        add_star(figure, leading.best.point.alpha, leading.best.value, leading.name)
    return figure


def draw_point_map(points: PointMap, metric: str, leading: Leader | None = None) -> go.Figure:
    """Draw the points in the plane of the two numbers, both on a log axis; the colour is the value."""
    figure = new_figure(f'{metric} against learning rate and {points.other}', **_SIZE)
    figure.update_xaxes(title='learning rate')
    _use_log_axis(figure, points.lrs)
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
            hovertemplate='%{text}: %{x:.4g}, %{y:.4g}<br>%{customdata[0]:.5g}, length %{customdata[1]:g} T_max',
            showlegend=False,
        )
    if leading:
        add_star(figure, leading.best.point.lr, leading.best.point.values[points.other_key], leading.name)
        figure.update_layout(legend=dict(orientation='h', y=1.02, yanchor='bottom', x=1, xanchor='right'))
    return figure


def draw_slice(points: Slice, metric: str, leading: Leader | None = None) -> go.Figure:
    """Draw the metric against one number of the space."""
    figure = new_figure(f'{metric} against {points.key}', **_SIZE)
    figure.update_layout(xaxis_title=points.key, yaxis_title=metric)
    if points.is_log:
        _use_log_axis(figure, points.numbers)
    figure.add_scatter(
        x=points.numbers,
        y=points.values,
        mode='markers',
        marker=dict(size=8, color=colour(0)),
        text=points.keys,
        customdata=points.lengths,
        hovertemplate=f'%{{text}}: {_VALUE} at %{{x:.4g}}<br>length %{{customdata:g}} T_max',
        showlegend=False,
    )
    if leading:
        add_star(figure, leading.best.point.values[points.key], leading.best.value, leading.name)
    return figure


def draw_progress(
    progress: Mapping[str, Progress], metric: str, leading: Mapping[str, Leader | None] | None = None
) -> go.Figure:
    """Draw the best value so far against cost (Fig. 5, left): one line for each search, by its name.

    A star is at the training that won each search. It can lie below the line, as a shorter training can have a higher
    value and not win.
    """
    figure = new_figure(f'best {metric} so far against cost', **_SIZE)
    figure.update_layout(xaxis_title='cost in T_max', yaxis_title=metric)
    for i, (name, (cost, best)) in enumerate(progress.items()):
        figure.add_scatter(
            x=cost,
            y=best,
            mode='lines+markers' if len(cost) <= _MANY else 'lines',
            line=dict(shape='hv', color=colour(i)),
            name=name,
            hovertemplate=f'{_VALUE} after %{{x:.4g}} T_max',
            showlegend=len(progress) > 1,
        )
        if found := (leading or {}).get(name):
            ink, of = (colour(i), f'{name}, ') if len(progress) > 1 else (None, '')
            add_star(figure, found.cost, found.best.value, of + found.name, ink=ink)
    figure.update_xaxes(rangemode='tozero')
    return figure


def draw_validation_curves(
    curves: Sequence[ValidationCurve], metric: str, unit: str, leading: Leader | None = None
) -> go.Figure:
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
            hovertemplate=f'%{{text}}: {_VALUE} at %{{x}}',
            showlegend=True,
        )
    for curve in curves:
        if leading and curve.key == leading.best.key:
            at = [x for x, y in zip(curve.steps, curve.values, strict=True) if y == leading.best.value]
            add_star(figure, (at or curve.steps)[-1], leading.best.value, leading.name)
    return figure
