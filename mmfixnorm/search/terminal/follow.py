"""``status --follow``: watches a search that another process drives. Reads only.

On a terminal, a table that is drawn again whenever something changes; elsewhere, one line for each
change. The record may be written meanwhile: each look at it is one snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmfixnorm.search.events import Event, Listener
from mmfixnorm.search.methods.values import describe, title, value_cells
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState, StageCost, search_state, stage_costs
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.terminal.console import event_printer, state_lines, state_table
from mmfixnorm.search.terminal.running import RunningTrial, driver_of, running_trials
from mmfixnorm.search.trial.schedule import training_length


class Look(NamedTuple):
    """What is seen of a search at one moment."""

    state: SearchState
    stages: list[StageCost]
    running: list[RunningTrial]
    driver: str

    @property
    def over(self) -> bool:
        """Nothing more will happen."""
        return bool(self.state.replayed.finished or self.state.replayed.stuck)


def look(problem: SearchProblem) -> Look:
    """Look at a search.

    Raises:
        ConfigError: There is no record, or it is that of another search.
    """
    record = read_record(problem.work_dir)
    state = search_state(problem, record)
    running = running_trials(problem, record, state.replayed)
    return Look(state, stage_costs(problem, record.attempts), running, driver_of(problem.work_dir))


def follow(
    problem: SearchProblem,
    console: Console,
    *,
    interval_s: float = 2.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Look:
    """Show a search until it is over; return the last look at it.

    Args:
        problem (SearchProblem): The search.
        console (Console): Where to show it.
        interval_s (float): Time between two looks, in seconds.
        sleep: Waits for that long.

    Raises:
        ConfigError: See :func:`look`.
    """
    if not console.is_terminal:
        return _follow_lines(problem, event_printer(console.file), interval_s, sleep)
    # Not drawn by a thread of its own: between two looks nothing changes.
    with Live(console=console, auto_refresh=False, vertical_overflow='crop') as live:
        shown = None
        while True:
            seen = look(problem)
            if seen != shown:
                live.update(draw(problem, seen, height=console.height), refresh=True)
            shown = seen
            if seen.over:
                return seen
            sleep(interval_s)


def draw(problem: SearchProblem, seen: Look, *, height: int) -> Group:
    """The stages with their cost, what runs, the last trials as far as there is room, and the best so far."""
    parts = [_stage_table(seen.stages)]
    if seen.running:
        parts.append(_running_table(problem, seen.running))
    lines = state_lines(problem, seen.state)
    used = sum(table.row_count + 4 for table in parts) + len(lines) + 6
    recorded = seen.state.rows[-max(3, height - used) :]
    if recorded:
        parts.append(state_table(problem, seen.state, recorded))
    return Group(*parts, Text('\n'.join([*lines, seen.driver])))


def _stage_table(stages: list[StageCost]) -> Table:
    table = _table('cost', ('stage', 'trainings', 'T_max', 'lost attempts'))
    for s in stages:
        trainings = f'{s.trainings}' if s.planned is None else f'{s.trainings} of {s.planned}'
        cost = f'{s.cost:g}' if s.planned_cost is None else f'{s.cost:g} of {s.planned_cost:g}'
        table.add_row(s.name, trainings, cost, str(s.lost))
    return table


def _running_table(problem: SearchProblem, running: list[RunningTrial]) -> Table:
    unit = training_length(problem.cfg)[1]
    tuned = problem.settings.tuned_keys
    table = _table('running', ('trial', *map(title, tuned), unit, problem.settings.metric, 'attempt', 'since', 'where'))
    for trial in running:
        table.add_row(
            trial.spec.key,
            *value_cells(trial.spec, tuned),
            f'{trial.step} of {trial.length}',
            '' if trial.value is None else f'{trial.value:g}',
            str(trial.attempt),
            time.strftime('%H:%M:%S', time.localtime(trial.since)),
            'ended' if trial.ended else trial.where,
        )
    return table


def _table(name: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=name)
    for column in columns:
        table.add_column(column, justify='left' if column in ('stage', 'trial', 'where') else 'right')
    return table


def _follow_lines(problem: SearchProblem, tell: Listener, interval_s: float, sleep: Callable[[float], object]) -> Look:
    told: set[str] = set()
    while True:
        seen = look(problem)
        for event in _events(problem, seen):
            if event.text not in told:
                told.add(event.text)
                tell(event)
        if seen.over:
            return seen
        sleep(interval_s)


def _events(problem: SearchProblem, seen: Look) -> Iterator[Event]:
    """All that has happened up to this look; no two of them have the same text."""
    for row in seen.state.rows:
        value = row.message.split('\n')[0] if row.value is None else f'{problem.settings.metric} {row.value:g}'
        text = f'{row.key} {describe(row)}: {row.outcome}, {value}, {row.seconds:.1f} s in {row.attempts} attempts'
        yield Event('recorded', text, row._asdict())
    for stage in seen.state.replayed.stages:
        if not stage.missing:
            best = f'{describe(stage.best)}, {stage.best.value:g}' if stage.best else 'none'
            yield Event('closed', f'{stage.name} closed, best: {best}', {'stage': stage.name})
    for trial in seen.running:
        text = f'{trial.spec.key} {describe(trial.spec)} runs, attempt {trial.attempt}: {trial.where}'
        yield Event('started', text, {**asdict(trial.spec), 'attempt': trial.attempt, 'where': trial.where})
    if seen.over:
        for line in state_lines(problem, seen.state):
            yield Event('finished', line, {'cost': seen.state.cost})
