"""The table of all trials in a report, each with the end of its log."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from mmfixnorm.config import training_length
from mmfixnorm.search.methods.base import titles
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import Row, SearchState, duration
from mmfixnorm.search.record.study import Attempt
from mmfixnorm.search.report.html import Markup, table
from mmfixnorm.search.trial.folder import LOG_FILE, read_angles, read_log_end, without_control

# What a page gives to all logs and messages together, and to one trial at most, in bytes.
_ALL_TRIALS = 1_200_000
_ONE_TRIAL = 8_000
# A browser takes seconds for a table of 10,000 rows.
_MOST_ROWS = 2_000


def trials_table(problem: SearchProblem, state: SearchState, attempts: Sequence[Attempt]) -> str:
    """Make one row for each trial, in the order of the plan; of more than 2000 trials for the best ones.

    If WeightNormLoggerHook has logged the angle per step in some trial, a column has its median over the training, in
    radians.
    """
    unit = training_length(problem.cfg)[1]
    tuned = problem.settings.tuned_keys
    metric = problem.settings.metric
    shown = shown_rows(state.rows, problem.settings.rule)
    angles = {row.key: angle for row in shown if (angle := _median_angle(_folder(problem, row))) is not None}
    columns = ['trial', 'outcome', *titles(tuned), unit, 'T_max', metric]
    names = (*columns, *(['rad per step'] if angles else []), 'attempts', 'time', 'log')
    budget = min(_ONE_TRIAL, _ALL_TRIALS // max(1, len(shown)))
    ended: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        ended.setdefault(attempt.spec.key, []).append(attempt)
    rows = []
    for row in shown:
        cells = (
            row.key,
            row.outcome,
            *(row.point.values.get(name) for name in tuned),
            row.length,
            row.spent,
            row.value,
            *([angles.get(row.key)] if angles else []),
            row.attempts,
            duration(row.seconds),
            Markup(_log(_folder(problem, row) / LOG_FILE, ended[row.key], budget)),
        )
        rows.append((_css(row, state), cells))
    left_out = len(state.rows) - len(shown)
    note = f'<p>The {len(shown)} best trials; <code>search export</code> has the other {left_out} too.</p>'
    return (note if left_out else '') + table(names, rows)


def shown_rows(rows: Sequence[Row], rule: str, most: int = _MOST_ROWS) -> list[Row]:
    """Choose the rows of a table that has room for so many: the best values, in the order in which they are given.

    Args:
        rows (Sequence[Row]): All trials.
        rule (str): ``'greater'`` or ``'less'``: which values are better.
        most (int): Rows of the table.
    """
    sign = -1.0 if rule == 'greater' else 1.0
    values = [math.inf if row.value is None else sign * row.value for row in rows]
    best = sorted(range(len(rows)), key=values.__getitem__)[:most]
    return [rows[i] for i in sorted(best)]


def _folder(problem: SearchProblem, row: Row) -> Path:
    return problem.trial_dir(row.same_as or row.key)


def _median_angle(trial_dir: Path) -> float | None:
    angles = read_angles(trial_dir)
    return median(angles.values()) if angles else None


def _css(row: Row, state: SearchState) -> str:
    if state.best is not None and row.key == state.best.key:
        return 'best'
    return '' if row.outcome == 'done' else 'ill'


def _log(path: Path, attempts: Sequence[Attempt], budget: int) -> str:
    messages = '\n'.join(
        f'attempt {a.result.attempt}: {a.result.outcome}, {a.result.message}' for a in attempts if a.result.message
    )
    lines = [end_of(messages, budget // 4)] if messages else []
    left = budget - len(''.join(lines))
    lines += [f'end of {html.escape(str(path))}:', end_of(read_log_end(path, left), left) or '(nothing)']
    first = html.escape(attempts[-1].result.message.split('\n')[0][:60]) or 'log'
    return f'<details><summary>{first}</summary><pre>' + '\n'.join(lines) + '</pre></details>'


def end_of(log: str, limit: int) -> str:
    """Return the last whole lines of a log as HTML of at most ``limit`` bytes.

    Example:
        >>> end_of('one\\ntwo <2>\\n', 16)
        'two &lt;2&gt;'
    """
    kept: list[str] = []
    for line in reversed(without_control(log.rstrip()).split('\n')):
        escaped = html.escape(line, quote=False)
        limit -= len(escaped.encode()) + 1
        if limit < 0:
            break
        kept.append(escaped)
    return '\n'.join(reversed(kept))
