"""One self-contained HTML file about a search; it opens without a network."""

from __future__ import annotations

import html
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import plotly.io

from mmfixnorm.search.console import summary_line
from mmfixnorm.search.curves import alpha_curves, lr_curves, point_map
from mmfixnorm.search.figures import draw_alpha_curves, draw_lr_curves, draw_point_map, draw_progress
from mmfixnorm.search.files import write_text
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.schedule import training_length
from mmfixnorm.search.study import StudyRecord
from mmfixnorm.search.table import SearchState, progress, search_state
from mmfixnorm.search.values import title, value_cells
from mmfixnorm.search.winner import winner_diff, write_best_config

REPORT_FILE = 'report.html'

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .25em .8em; border-bottom: 1px solid #ddd; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.best {{ font-weight: bold; background: #eef7ee; }} .warning {{ background: #fff4d6; padding: .5em 1em; }}
pre {{ background: #f7f7f7; padding: 1em; overflow-x: auto; }}
pre .add {{ color: #116329; background: #dafbe1; }} pre .remove {{ color: #82071e; background: #ffebe9; }}
</style></head><body>
{body}
</body></html>
"""


class ReportFiles(NamedTuple):
    """What was written; ``best_config`` is None while no round is closed."""

    report: Path
    best_config: Path | None


def write_report(problem: SearchProblem, record: StudyRecord) -> ReportFiles:
    """Write ``report.html`` and, once there is a best trial, ``best_config.py``."""
    state = search_state(problem, record)
    best_config = write_best_config(problem, state.best) if state.best else None
    sections = [
        f'<h1>{html.escape(problem.settings.kind)} on {html.escape(problem.filename)}</h1>',
        _summary(problem, state, best_config),
        *_figures(problem, record, state),
        '<h2>Trials</h2>',
        _trials(problem, state),
        *_winner(problem, state),
    ]
    path = problem.work_dir / REPORT_FILE
    page = _PAGE.format(title=html.escape(f'search on {problem.filename}'), body='\n'.join(sections))
    write_text(path, page)
    return ReportFiles(path, best_config)


def _summary(problem: SearchProblem, state: SearchState, best_config: Path | None) -> str:
    length, unit = training_length(problem.cfg)
    lines = [
        f'<b>{html.escape(summary_line(problem, state))}</b>',
        f'T_max is {length} {unit}. Cost so far {state.cost:g} T_max of {state.planned_cost:g} planned.',
        f'It took {duration(state.wall_seconds)} from its start to its last result; '
        f'its trials took {duration(state.trial_seconds)} in sum.',
        f'Written {datetime.now():%Y-%m-%d %H:%M}.',
    ]
    if best_config:
        lines.append(f'Winning config: <code>{html.escape(str(best_config))}</code>')
    warnings = [f'<p class="warning">{html.escape(w)}</p>' for w in state.replayed.warnings]
    return '<p>' + '<br>\n'.join(lines) + '</p>\n' + '\n'.join(warnings)


def duration(seconds: float) -> str:
    """``3725`` as ``1 h 2 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, 'h'), (minutes, 'min'), (rest, 's')]
    return ' '.join(f'{n} {unit}' for n, unit in parts if n) or '0 s'


def _figures(problem: SearchProblem, record: StudyRecord, state: SearchState) -> Iterable[str]:
    settings = problem.settings
    figures = [draw_lr_curves(lr_curves(settings, state), settings.metric)]
    alphas = alpha_curves(settings, state)
    if alphas:
        figures.append(draw_alpha_curves(alphas, settings.metric))
    points = point_map(settings, state)
    if points:
        figures.append(draw_point_map(points, settings.metric))
    figures.append(draw_progress(progress(record.attempts, settings.rule), settings.metric))
    for i, figure in enumerate(figures):
        # The library goes into the page once, with the first figure.
        yield plotly.io.to_html(figure, full_html=False, include_plotlyjs=i == 0)


def _trials(problem: SearchProblem, state: SearchState) -> str:
    unit = training_length(problem.cfg)[1]
    tuned = problem.settings.tuned_keys
    names = ('trial', 'outcome', *map(title, tuned), unit, 'T_max', problem.settings.metric, 'attempts', 'time')
    lines = ['<table><tr>' + ''.join(f'<th>{html.escape(n)}</th>' for n in names) + '</tr>']
    for row in state.rows:
        leading = state.best is not None and row.key == state.best.key
        numbers = [
            *value_cells(row, tuned),
            str(row.length),
            f'{row.cost:g}',
            '' if row.value is None else f'{row.value:g}',
            str(row.attempts),
            duration(row.seconds),
        ]
        note = f' title="{html.escape(row.message)}"' if row.message else ''
        lines.append(
            f'<tr class="{"best" if leading else ""}"><td>{row.key}</td><td{note}>{row.outcome}</td>'
            + ''.join(f'<td class="number">{n}</td>' for n in numbers)
            + '</tr>'
        )
    return '\n'.join([*lines, '</table>'])


def _winner(problem: SearchProblem, state: SearchState) -> Iterable[str]:
    if state.best is None:
        return
    yield '<h2>Winning config, as a difference to the given one</h2>'
    marks = {'+': 'add', '-': 'remove'}
    lines = [
        f'<span class="{marks.get(line[:1], "same")}">{html.escape(line)}</span>'
        for line in winner_diff(problem, state.best)
    ]
    yield '<pre>' + '\n'.join(lines) + '</pre>'
