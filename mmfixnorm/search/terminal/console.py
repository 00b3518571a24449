"""Render a search: tables, lines of text, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import IO

from rich.console import Console
from rich.table import Table

from mmfixnorm.config import training_length
from mmfixnorm.search._utils.numbers import column
from mmfixnorm.search.events import Event, Listener
from mmfixnorm.search.executors import ExecutorSettings
from mmfixnorm.search.methods.base import FinishedTraining, Spec, titles
from mmfixnorm.search.methods.confirm import confirmations
from mmfixnorm.search.planner import Propose, Run, plan
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import Row, SearchState, summary_line

_QUIET = frozenset({'submitting', 'ended'})  # an event with more detail follows each

SHOWN_ROWS = 60  # of a table, unless --all is given: rich takes milliseconds for each


def event_printer(stream: IO[str], *, as_json: bool = False) -> Listener:
    """Return a listener that prints one line per event, as text or as JSON."""

    def write_text(event: Event) -> None:
        if event.kind not in _QUIET:
            done = event.data.get('progress') or ''
            stream.write(f'{datetime.now():%H:%M:%S} {done:>6} {event.text}\n')
            stream.flush()

    def write_json(event: Event) -> None:
        line = {'time': datetime.now().isoformat(timespec='seconds'), 'event': event.kind}
        stream.write(json.dumps({**line, **event.data, 'text': event.text}) + '\n')
        stream.flush()

    return write_json if as_json else write_text


def print_state(
    problem: SearchProblem, state: SearchState, console: Console, *, max_rows: int | None = SHOWN_ROWS
) -> None:
    """Print the table of trials, its last rows if there are more than ``max_rows``, and where the search stands."""
    console.print(state_table(problem, state, state.rows[-max_rows:] if max_rows else state.rows))
    if max_rows and len(state.rows) > max_rows:
        hidden = len(state.rows) - max_rows
        console.print(f'{hidden} earlier trials are not shown; --all shows them', highlight=False)
    for line in state_lines(problem, state):
        console.print(line, markup=False, highlight=False)


def state_lines(problem: SearchProblem, state: SearchState) -> list[str]:
    """Say where a search stands: the confirmation, the summary, warnings."""
    lines = []
    for c in confirmations(state.replayed, state.rows):
        mean = '' if c.mean is None else f', mean {c.mean:.4g}'
        interval = f', 95 % interval {c.interval[0]:.4g} to {c.interval[1]:.4g}' if c.interval else ''
        diverged = f', {c.diverged} diverged' if c.diverged else ''
        lines.append(f'{c.role} {c.training.key} over {len(c.seeds)} new seeds{mean}{interval}{diverged}')
    lines += filter(None, [state.replayed.conclusion])
    lines += state.replayed.notes
    return [*lines, summary_line(problem, state), *(f'WARNING: {w}' for w in state.warnings)]


def state_table(problem: SearchProblem, state: SearchState, rows: Sequence[Row]) -> Table:
    """Make a table of these trials."""
    unit = training_length(problem.cfg)[1]
    tuned = problem.settings.tuned_keys
    table = Table(title=f'{problem.filename}: {problem.settings.metric}')
    for name in ('trial', *titles(tuned), unit, 'T_max', 'outcome', 'value', 'attempts', 'seconds'):
        # A key is an identity: a narrow terminal cuts other columns.
        table.add_column(name, justify='left' if name in ('trial', 'outcome') else 'right', no_wrap=name == 'trial')
    columns = (
        [row.key for row in rows],
        *(column([row.point.values.get(name) for row in rows]) for name in tuned),
        [str(row.length) for row in rows],
        column([row.spent for row in rows]),
        [row.outcome for row in rows],
        column([row.value for row in rows]),
        [str(row.attempts) for row in rows],
        [f'{row.seconds:.1f}' for row in rows],
    )
    for row, cells in zip(rows, zip(*columns, strict=True), strict=True):
        leading = state.best is not None and row.key == state.best.key
        table.add_row(*cells, style='bold' if leading else None)
    return table


def print_plan(problem: SearchProblem, history: Sequence[FinishedTraining | Spec], console: Console) -> None:
    """Print every training that is known to come next, and the cost of each stage."""
    unit = training_length(problem.cfg)[1]
    known = plan(problem.settings, history)
    specs = known.specs if isinstance(known, Run) else ()
    tuned = problem.settings.tuned_keys
    table = Table(title=f'{problem.filename}: T_max = {problem.length()} {unit}')
    for name in ('trial', *titles(tuned), unit, 'T_max'):
        table.add_column(name, justify='left' if name == 'trial' else 'right')
    for spec in specs:
        table.add_row(
            spec.key,
            *spec.point.cells(tuned),
            '' if spec.is_ramp else str(problem.length(spec.fraction)),
            'a ramp' if spec.is_ramp else f'{problem.cost(spec.fraction):g}',
        )
    console.print(table)
    if isinstance(known, Propose):
        keys = ', '.join(known.keys)
        console.print(f'next: {keys}; proposed when they start, from all earlier results', highlight=False)
    stages = problem.planned_costs()
    for name, number, cost in stages:
        of = f'{number} trainings, {cost:g} T_max' if cost else 'at most 100 steps, not counted below'
        console.print(f'{name}: {of}', highlight=False)
    total = sum(cost for _, _, cost in stages)
    console.print(f'in all: {sum(n for _, n, _ in stages)} trainings, {total:g} T_max', highlight=False)
    if problem.settings.budget is not None:
        text = f'budget: {problem.settings.budget_text}; what would exceed it is not started'
        console.print(text, highlight=False)
    for line in places_lines(problem, max(number for _, number, _ in stages)):
        console.print(line, markup=False, highlight=False)


def places_lines(problem: SearchProblem, most_trials: int) -> list[str]:
    """Say what a trial and the search take at a time, and whether that makes the total batch of the config.

    Args:
        problem (SearchProblem): The search.
        most_trials (int): Trials of the largest stage.
    """
    executor = problem.settings.executor_settings
    trials = min(problem.settings.workers, most_trials) if executor.limits_trials else most_trials
    each = _places(executor, 1)
    lines = [
        f'a trial takes {each}; the search at most {trials} at a time ({executor.kind}): {_places(executor, trials)}'
    ]
    total, counts = problem.total_batch, problem.accumulative_counts
    if total is not None and total.named != total.real:
        if counts is not None:
            lines.append(f'total batch: {total}; accumulative_counts={counts} makes up for it (keep_total_batch)')
        else:
            keep = 'search.keep_total_batch=True, or ' if total.factor else ''
            lines.append(
                f'WARNING: {total}; the learning rate belongs to the total batch: use {keep}as many GPUs '
                '(search.executor.gpus_per_trial) as make it'
            )
    return lines


def _places(executor: ExecutorSettings, trials: int) -> str:
    number, unit = executor.gpus_per_trial, 'GPU'
    if number == 0:
        number, unit = executor.processes, 'process'
    number *= trials
    plural = '' if number == 1 else 'es' if unit == 'process' else 's'
    nodes = executor.nodes * trials
    where = 'this machine' if executor.on_this_machine else f'{nodes} node{"s" * (nodes > 1)}'
    return f'{number} {unit}{plural} on {where}'
