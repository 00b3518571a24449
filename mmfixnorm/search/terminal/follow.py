"""``status --follow``: watch a search that another process drives. Reads only.

On a terminal, a table that is drawn again whenever something changes; elsewhere, one line for each
change. The record may be written meanwhile: each read of it is one snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmfixnorm.search.events import Event, Listener
from mmfixnorm.search.methods.base import title
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState, StageCost, search_state, stage_costs
from mmfixnorm.search.record.study import read_record_of
from mmfixnorm.search.terminal.console import event_printer, state_lines, state_table
from mmfixnorm.search.terminal.running import RunningTrial, driver_of, running_trials
from mmfixnorm.search.trial.schedule import training_length


class Snapshot(NamedTuple):
    """A search at one moment."""

    state: SearchState
    stages: list[StageCost]
    running: list[RunningTrial]
    driver: str

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return bool(self.state.replayed.finished or self.state.replayed.stuck)


def take_snapshot(problem: SearchProblem) -> Snapshot:
    """Read where a search stands now.

    Raises:
        ConfigError: There is no record, or it belongs to another search.
    """
    record = read_record_of(problem)
    state = search_state(problem, record)
    running = running_trials(problem, record, state.replayed)
    return Snapshot(state, stage_costs(problem, record.attempts), running, driver_of(problem.work_dir))


def follow(
    problem: SearchProblem,
    console: Console,
    *,
    interval_s: float = 2.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Snapshot:
    """Show a search until it is over; return the last snapshot.

    Args:
        problem (SearchProblem): The search.
        console (Console): Where to show it.
        interval_s (float): Time between two snapshots, in seconds.
        sleep: Waits for that long.

    Raises:
        ConfigError: See :func:`take_snapshot`.
    """
    if not console.is_terminal:
        return _follow_lines(problem, event_printer(console.file), interval_s, sleep)
    # Not drawn by a thread of its own: between two snapshots nothing changes.
    with Live(console=console, auto_refresh=False, vertical_overflow='crop') as live:
        shown = None
        while True:
            snapshot = take_snapshot(problem)
            if snapshot != shown:
                live.update(draw(problem, snapshot, height=console.height), refresh=True)
            shown = snapshot
            if snapshot.over:
                return snapshot
            sleep(interval_s)


def draw(problem: SearchProblem, snapshot: Snapshot, *, height: int) -> Group:
    """Draw the stages with their cost, the running trials, the last trials that fit, and the best so far."""
    parts = [_stage_table(snapshot.stages)]
    if snapshot.running:
        parts.append(_running_table(problem, snapshot.running))
    lines = state_lines(problem, snapshot.state)
    used = sum(table.row_count + 4 for table in parts) + len(lines) + 6
    recorded = snapshot.state.rows[-max(3, height - used) :]
    if recorded:
        parts.append(state_table(problem, snapshot.state, recorded))
    return Group(*parts, Text('\n'.join([*lines, snapshot.driver])))


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
            *trial.spec.point.cells(tuned),
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


def _follow_lines(
    problem: SearchProblem, listener: Listener, interval_s: float, sleep: Callable[[float], object]
) -> Snapshot:
    reported: set[str] = set()
    while True:
        snapshot = take_snapshot(problem)
        for event in _events(problem, snapshot):
            if event.text not in reported:
                reported.add(event.text)
                listener(event)
        if snapshot.over:
            return snapshot
        sleep(interval_s)


def _events(problem: SearchProblem, snapshot: Snapshot) -> Iterator[Event]:
    """Yield everything that has happened up to this snapshot; no two events have the same text."""
    for row in snapshot.state.rows:
        value = row.message.split('\n')[0] if row.value is None else f'{problem.settings.metric} {row.value:g}'
        text = f'{row.key} {row.point}: {row.outcome}, {value}, {row.seconds:.1f} s in {row.attempts} attempts'
        yield Event('recorded', text, row.to_dict())
    for stage in snapshot.state.replayed.stages:
        if not stage.missing:
            best = f'{stage.best.point}, {stage.best.value:g}' if stage.best else 'none'
            yield Event('closed', f'{stage.name} closed, best: {best}', {'stage': stage.name})
    for trial in snapshot.running:
        text = f'{trial.spec.key} {trial.spec.point} runs, attempt {trial.attempt}: {trial.where}'
        yield Event('started', text, {**trial.spec.to_dict(), 'attempt': trial.attempt, 'where': trial.where})
    if snapshot.over:
        for line in state_lines(problem, snapshot.state):
            yield Event('finished', line, {'cost': snapshot.state.cost})
