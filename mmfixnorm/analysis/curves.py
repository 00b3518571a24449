"""Figures of trainings: Fig. 1 and 2 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mmfixnorm.analysis.conv_norm import conv_norm
from mmfixnorm.analysis.groups import Band, Curve, Group, average, unit_title
from mmfixnorm.analysis.parts import NormParts, change, norm_parts
from mmfixnorm.analysis.runs import Mode, Series, TrainingRun
from mmfixnorm.plot.chart import Boundary, Chart, Line, Panel

METRIC_TITLES = {'accuracy/top1': 'top-1 accuracy (%)', 'accuracy/top5': 'top-5 accuracy (%)'}
_RULE = (
    'The boundary is the knot of the continuous broken line that fits the log of the norm best (least squares). There '
    'are two parts if the norm falls by 1 % or more up to the knot, at least twice as steeply as after it.'
)


def accuracy_chart(groups: Sequence[Group], *, metric: str = 'accuracy/top1', band: Band = 'range') -> Chart:
    """Plot a validation metric against epoch, one curve for each group (Fig. 1 right and Fig. 2 left).

    Raises:
        ConfigError: If the metric was not logged.
    """
    curves = [average(group, lambda run: run.series('val', metric), band) for group in groups]
    title = METRIC_TITLES.get(metric, metric)
    unit = unit_title(groups)
    notes = [f'{c.label}: {metric} {c.ending()} at {unit} {c.x[-1]:g}; {_highest(c, unit)}' for c in curves]
    panel = Panel(unit, title, [curve.line(i) for i, curve in enumerate(curves)])
    return Chart(f'{title} against {unit}', [panel], notes=[*notes, *_band_note(curves, band)])


def _highest(curve: Curve, unit: str) -> str:
    if np.isnan(curve.mean).all():
        return 'no finite value'
    top = int(np.nanargmax(curve.mean))
    return f'highest {"mean " if curve.band else ""}{curve.mean[top]:.4g} at {unit} {curve.x[top]:g}'


def weight_norm_chart(groups: Sequence[Group], *, band: Band = 'range') -> Chart:
    """Plot the norm of the convolutions' weights against epoch, with its two parts under weight decay (Fig. 1 left).

    Draws the boundary of each group's mean curve, if there is one; with a single group the first part is shaded. Below
    it, the angle per step in radians of those groups whose runs have all logged it.

    Raises:
        ConfigError: If the norm of the convolutions was not logged.
    """
    unit = unit_title(groups)
    lines: list[Line] = []
    boundaries: list[Boundary] = []
    notes: list[str] = []
    curves = [average(group, lambda run: conv_norm(run)[0], band) for group in groups]
    for i, (group, curve) in enumerate(zip(groups, curves, strict=True)):
        parts = norm_parts(curve.x, curve.mean)
        lines.append(curve.line(i))
        notes.append(f'{curve.label}: {_parts_note(curve, parts, unit)}')
        notes += [f'{curve.label}: {how}' for how in sorted({conv_norm(run)[1] for run in group.runs} - {''})]
        if parts.line and not parts.absence:
            name = f'{curve.label}: broken line in log norm'
            lines.append(Line(name, curve.x, np.exp(parts.line.fit).tolist(), i, dashed=True))
            text = f'{unit} {parts.line.knot:.3g}'
            boundaries.append(Boundary(parts.line.knot, text, i, shaded=len(groups) == 1))
    panels = [Panel(unit, '‖W_Conv‖₂', lines, boundaries=boundaries)]
    title = f'norm of the convolutions’ weights against {unit}'
    angles = [
        (i, average(group, lambda run: run.series('train', 'angle'), band))
        for i, group in enumerate(groups)
        if all(run.has('train', 'angle') for run in group.runs)
    ]
    if angles:
        panels.append(Panel(unit, 'angle per step (rad)', [curve.line(i) for i, curve in angles]))
        title = f'norm of the convolutions’ weights, and angle per step, against {unit}'
        notes += [f'{c.label}: angle per step {c.ending()} rad at {unit} {c.x[-1]:g}' for _, c in angles]
        notes.append('The angle is of all weights whose norm was logged, and of a single step.')
    return Chart(title, panels, 'stacked', [*notes, _RULE, *_band_note(curves, band)])


def _parts_note(curve: Curve, parts: NormParts, unit: str) -> str:
    whole = f'{change(curve.mean[0], curve.mean[-1])} from {unit} {curve.x[0]:.3g} to {curve.x[-1]:.3g}'
    if parts.absence or parts.line is None or parts.norms is None:
        return f'{parts.absence}; {whole}'
    start, middle, end = parts.norms
    return (
        f'first part up to {unit} {parts.line.knot:.3g}: {change(start, middle)} '
        f'({100 * parts.line.before:+.3g} % per {unit}); second part: {change(middle, end)} '
        f'({100 * parts.line.after:+.3g} % per {unit})'
    )


def classifier_scale_chart(groups: Sequence[Group], *, mode: Mode = 'val', band: Band = 'range') -> Chart:
    """Fig. 2 right: scale of the final layer (top) and mean cross-boundary risk (bottom) against epoch.

    The scale is ``||W_FC||`` for a plain layer and ``g`` for WN-FC and FixNorm-FC, as CrossBoundaryRiskHook logs it.
    The bound ``alpha * sqrt(#class)`` of FixNorm-FC, where it is logged, is a dashed line.

    Args:
        groups: The runs.
        mode: ``'val'``: the risk is the mean over the validation set; ``'train'``: of the logged batches.
        band: What the spread over seeds is, see :func:`.groups.average`.

    Raises:
        ConfigError: CrossBoundaryRiskHook was not there.
    """
    unit = unit_title(groups)
    scales = [average(group, partial(_read, mode, 'g'), band) for group in groups]
    risks = [average(group, partial(_read, mode, 'mcbr'), band) for group in groups]
    bounds = [
        (i, average(group, partial(_read, mode, 'g_bound'), band))
        for i, group in enumerate(groups)
        if all(run.has(mode, 'g_bound') for run in group.runs)
    ]
    dashed = [Line(f'{b.label}: bound of g', b.x, b.mean, i, dashed=True) for i, b in bounds]
    top = Panel(unit, '‖W_FC‖ or g', [*(c.line(i) for i, c in enumerate(scales)), *dashed])
    bottom = Panel(unit, 'MCBR', [curve.line(i) for i, curve in enumerate(risks)])
    limit = {curve.label: f', bound {curve.mean[-1]:.4g}' for _, curve in bounds}
    notes = [
        f'{scale.label}: ‖W_FC‖ or g {scale.ending()}{limit.get(scale.label, "")}; MCBR ({mode}) {risk.ending()}; '
        f'at {unit} {scale.x[-1]:g}'
        for scale, risk in zip(scales, risks, strict=True)
    ]
    title = f'final layer: scale and mean cross-boundary risk against {unit}'
    return Chart(title, [top, bottom], 'stacked', [*notes, *_band_note(scales, band)])


def _read(mode: Mode, key: str, run: TrainingRun) -> Series:
    return run.series(mode, key)


def _band_note(curves: Sequence[Curve], band: Band) -> list[str]:
    if not any(curve.band for curve in curves):
        return []
    spread = 'from the smallest to the largest run' if band == 'range' else 'mean -+ sample standard deviation'
    return [f'Lines are means over runs of the same label; bands: {spread}.']
