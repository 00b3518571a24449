"""Write one self-contained HTML file about a search; it opens without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import NamedTuple

from mmfixnorm.config import training_length
from mmfixnorm.plot.page import Page
from mmfixnorm.search._utils.files import write_text, writing_to
from mmfixnorm.search._utils.numbers import column
from mmfixnorm.search.methods.confirm import confirmations
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.compare import Study, read_studies
from mmfixnorm.search.record.state import SearchState, duration, search_state, stage_costs, summary_line
from mmfixnorm.search.record.study import StudyRecord, check_belongs
from mmfixnorm.search.report import figures
from mmfixnorm.search.report import html as report_html
from mmfixnorm.search.report.curves import (
    alpha_curves,
    fit_curve,
    leader,
    lr_curves,
    point_map,
    ramp_curve,
    slices,
    validation_curves,
)
from mmfixnorm.search.report.html import table
from mmfixnorm.search.report.remarks import remarks
from mmfixnorm.search.report.trials import trials_table
from mmfixnorm.search.report.winner import total_batch_kept, winner_diff, write_best_config

REPORT_FILE = 'report.html'


class ReportFiles(NamedTuple):
    """The files written; ``best_config`` is None while no stage has finished."""

    report: Path
    best_config: Path | None


def write_report(
    problem: SearchProblem, record: StudyRecord, *, compare: Sequence[str | os.PathLike[str]] = ()
) -> ReportFiles:
    """Write ``report.html`` and, once there is a best trial, ``best_config.py``.

    Args:
        problem (SearchProblem): The search.
        record (StudyRecord): Its attempts.
        compare: Work dirs of other searches to show beside it, of any method and config.

    Raises:
        ConfigError: The record belongs to another search, or a search in ``compare`` has no record, or another metric
            or rule.
    """
    check_belongs(problem, record)
    state = search_state(problem, record)
    studies = read_studies([problem.work_dir, *compare]) if compare else []
    best_config = write_best_config(problem, state) if state.best else None
    page = Page(f'search on {problem.filename}')
    page.add(f'<h1>{escape(problem.settings.kind)} on {escape(Path(problem.filename).name)}</h1>')
    page.add(*_summary(problem, state, best_config))
    page.add(*_remarks(problem, state, record))
    _add_figures(page, problem, record, state)
    if studies:
        page.add('<h2>Searches side by side</h2>')
        leaders = {s.label: leader(s.state, s.record.attempts) for s in studies}
        lines = {s.label: s.state.progress for s in studies}
        page.add_figure(figures.draw_progress(lines, problem.settings.metric, leaders))
        page.add(*_comparison(studies))
    page.add('<h2>Cost</h2>', _ledger(problem, record, state))
    page.add(*_confirmation(state))
    page.add('<h2>Trials</h2>', trials_table(problem, state, record.attempts))
    page.add(*_winner(problem, state))
    path = problem.work_dir / REPORT_FILE
    with writing_to(problem.work_dir):
        write_text(path, page.render())
    return ReportFiles(path, best_config)


def _summary(problem: SearchProblem, state: SearchState, best_config: Path | None) -> Iterator[str]:
    length, unit = problem.length(), training_length(problem.cfg)[1]
    lines = [
        f'<b>{escape(summary_line(problem, state))}</b>',
        f'Config: <code>{escape(problem.filename)}</code>',
        f'T_max is {length} {unit}. Cost so far {state.cost:g} T_max of {state.planned_cost:g} planned'
        + (
            f'; {state.saved_cost:g} saved, as trainings are, or begin, the same as others.'
            if state.saved_cost
            else '.'
        ),
        f'It took {duration(state.wall_seconds)} from its start to its last result; '
        f'its trials took {duration(state.trial_seconds)} in sum.',
        f'Written {datetime.now():%Y-%m-%d %H:%M}.',
    ]
    if best_config:
        lines.append(f'Winning config: <code>{escape(str(best_config))}</code>')
    yield '<p>' + '<br>\n'.join(lines) + '</p>'
    yield from map(report_html.warning, state.warnings)


def _remarks(problem: SearchProblem, state: SearchState, record: StudyRecord) -> Iterator[str]:
    told = remarks(problem, state, record.attempts)
    if told:
        yield '<h2>What the results say</h2>'
        yield '<ul class="remarks">' + '\n'.join(f'<li>{escape(text)}</li>' for text in told) + '</ul>'


def _add_figures(page: Page, problem: SearchProblem, record: StudyRecord, state: SearchState) -> None:
    settings, metric = problem.settings, problem.settings.metric
    leading = leader(state, record.attempts)
    if ramp := ramp_curve(record.attempts):
        page.add_figure(figures.draw_ramp(ramp))
    over_lr = figures.draw_lr_curves(lr_curves(state), metric, leading)
    if fit := fit_curve(settings, state):
        figures.add_fit(over_lr, fit)
    page.add_figure(over_lr)
    alphas = alpha_curves(state, settings.rule)
    if alphas:
        page.add_figure(figures.draw_alpha_curves(alphas, metric, leading))
    points = point_map(settings, state)
    if points:
        page.add_figure(figures.draw_point_map(points, metric, leading))
    for of_key in slices(settings, state):
        page.add_figure(figures.draw_slice(of_key, metric, leading))
    page.add_figure(figures.draw_progress({settings.kind: state.progress}, metric, {settings.kind: leading}))
    curves = validation_curves(problem, record.attempts)
    if curves:
        unit = training_length(problem.cfg)[1]
        page.add_figure(figures.draw_validation_curves(curves, metric, unit, leading))


def _ledger(problem: SearchProblem, record: StudyRecord, state: SearchState) -> str:
    """Tabulate what each stage has cost, and their sum."""
    costs = stage_costs(problem, record.attempts)
    names = ('stage', 'trainings', 'planned', 'T_max', 'planned T_max', 'time', 'lost attempts', 'their time')
    rows = [
        (
            '',
            (
                c.name,
                c.trainings,
                c.planned,
                c.cost,
                c.planned_cost,
                duration(c.seconds),
                c.lost,
                duration(c.lost_seconds),
            ),
        )
        for c in costs
    ]
    total = (
        'in all',
        sum(c.trainings for c in costs),
        sum(c.planned or 0 for c in costs),
        state.cost,
        state.planned_cost,
        duration(sum(c.seconds for c in costs)),
        sum(c.lost for c in costs),
        duration(sum(c.lost_seconds for c in costs)),
    )
    return table(names, [*rows, ('sum', total)])


def _comparison(studies: Sequence[Study]) -> Iterator[str]:
    names = (
        'search',
        'method',
        'best',
        'with',
        'reached at T_max',
        'cost in T_max',
        'trainings',
        'time',
        'T_max is',
    )
    rows, lengths = [], set()
    for study in studies:
        state, (length, unit) = study.state, training_length(study.problem.cfg)
        cost, best = state.progress
        reached = best[-1] if best else None
        at = cost[best.index(reached)] if reached is not None else None
        leading = next((row for row in state.rows if row.value == reached and reached is not None), None)
        lengths.add(f'{length} {unit}')
        cells = (
            study.label,
            study.settings.kind,
            reached,
            leading.point if leading else None,
            at,
            cost[-1] if cost else 0.0,
            len(cost),
            duration(state.wall_seconds),
            f'{length} {unit}',
        )
        rows.append(('', cells))
    yield table(names, rows)
    if len(lengths) > 1:
        yield report_html.warning(f'T_max is not the same in all searches: {", ".join(sorted(lengths))}')


def _confirmation(state: SearchState) -> Iterator[str]:
    confirmed = confirmations(state.replayed, state.rows)
    if not confirmed:
        return
    yield '<h2>Confirmation over new seeds</h2>'
    rows = []
    for c in confirmed:
        interval = ' to '.join(column(c.interval)) if c.interval else ''
        values = ', '.join(cell or 'diverged' for cell in column(c.values))
        cells = (
            c.role,
            c.training.key,
            c.training.point,
            c.training.value,
            len(c.seeds),
            c.mean,
            interval,
            c.diverged,
            values,
        )
        rows.append(('best' if c.chosen else '', cells))
    names = ('in the search', 'trial', 'with', 'its value', 'new seeds', 'mean', '95 % interval', 'diverged', 'values')
    yield table(names, rows)


def _winner(problem: SearchProblem, state: SearchState) -> Iterator[str]:
    if state.best is None:
        return
    yield '<h2>Winning config, as a difference to the given one</h2>'
    if said := total_batch_kept(problem):
        yield f'<p>{escape(said)}</p>'
    marks = {'+': 'add', '-': 'remove'}
    lines = [
        f'<span class="{marks.get(line[:1], "same")}">{escape(line)}</span>'
        for line in winner_diff(problem, state.best)
    ]
    yield '<pre>' + '\n'.join(lines) + '</pre>'
