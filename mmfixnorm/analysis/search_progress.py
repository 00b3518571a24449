"""Fig. 5: search progress against cost, and the details of each search with FixNorm."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmfixnorm.plot.chart import Chart, Line, Panel, Star
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.record.compare import Study
from mmfixnorm.search.report.curves import alpha_curves, lr_curves


def search_chart(studies: Sequence[Study]) -> Chart:
    """Plot the best value so far against cost, one curve for each study, and details of FixNorm searches (Fig. 5).

    Cost is in trainings of full length (T_max) of the study's own config. A training counts once it has finished.
    """
    metric = studies[0].settings.metric
    lines, notes = [], []
    for i, study in enumerate(studies):
        cost, best = study.state.progress
        lines.append(Line(study.label, cost, [math.nan if b is None else b for b in best], i, markers=True, steps=True))
        notes.append(_progress_note(study, cost, best))
    panels = [Panel('cost in T_max', f'best {metric} so far', lines, title='search progress')]
    searches = [study for study in studies if isinstance(study.settings, FixNormSearch)]
    panels += [detail_panel(study) for study in searches]
    notes += [note for study in searches for note in _detail_notes(study)]
    return Chart(f'search for the best {metric}', panels, notes=notes)


def _progress_note(study: Study, cost: Sequence[float], best: Sequence[float | None]) -> str:
    if not best or best[-1] is None:
        return f'{study.label}: no training has a value yet'
    reached = cost[list(best).index(best[-1])]
    state = study.state
    return (
        f'{study.label}: best {study.settings.metric} {best[-1]:.4g}, reached at {reached:g} T_max; {len(cost)} '
        f'trainings, {cost[-1]:g} of {state.planned_cost:g} T_max'
    )


def detail_panel(study: Study) -> Panel:
    """Plot the metric against lr, one curve for each round, and the best after searching alpha."""
    curves = lr_curves(study.state)
    lines, stars = [], []
    for i, curve in enumerate(curves):
        values = [math.nan if v is None else v for v in curve.values]
        lines.append(Line(curve.name, curve.lrs, values, i, markers=True))
    best = study.state.best
    if best is not None and study.state.replayed.finished:
        stars.append(Star('best after searching alpha', best.point.lr, best.value, len(curves)))
    return Panel('learning rate', study.settings.metric, lines, f'search details: {study.label}', stars)


def _detail_notes(study: Study) -> list[str]:
    notes = []
    for curve in lr_curves(study.state):
        if curve.best_lr is not None:
            best = curve.values[curve.lrs.index(curve.best_lr)]
            diverged = f', diverged at {", ".join(f"{lr:g}" for lr in curve.diverged)}' if curve.diverged else ''
            notes.append(
                f'{study.label}, {curve.name}: [{curve.lr_min:g}, {curve.lr_max:g}], best lr {curve.best_lr:g} '
                f'({best:.4g}){diverged}'
            )
    for alphas in alpha_curves(study.state, study.settings.rule):
        values = zip(alphas.alphas, alphas.values, strict=True)
        shown = ', '.join(f'{alpha:g}: {"diverged" if value is None else f"{value:.4g}"}' for alpha, value in values)
        notes.append(f'{study.label}, alpha at lr {alphas.lr:g}: {shown}')
    return notes
