"""Watch a search, driven by this process (``run``) or by another (``status --follow``). Reads only.

On a terminal, a table that is drawn again whenever something changes; elsewhere, one line for each
change. The record may be written meanwhile: each read of it is one snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmfixnorm.config import training_length
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.events import Event, Listener
from mmfixnorm.search.methods.base import titles
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState, StageCost, duration, search_state, stage_costs
from mmfixnorm.search.record.study import read_record_of
from mmfixnorm.search.terminal.console import event_printer, print_state, state_lines, state_table
from mmfixnorm.search.terminal.running import RunningTrial, driver_of, running_trials, time_left


class Snapshot(NamedTuple):
    """A search at one moment."""

    state: SearchState
    stages: list[StageCost]
    running: list[RunningTrial]
    seconds_left: float | None
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
    left = time_left(problem, state, running, time.time())
    return Snapshot(state, stage_costs(problem, record.attempts), running, left, driver_of(problem.work_dir))


def follow(
    problem: SearchProblem,
    console: Console,
    *,
    interval_s: float = 2.0,
    as_json: bool = False,
    sleep: Callable[[float], object] = time.sleep,
) -> Snapshot:
    """Show a search until it is over; return the last snapshot.

    Args:
        problem (SearchProblem): The search.
        console (Console): Where to show it.
        interval_s (float): Time between two snapshots, in seconds.
        as_json (bool): Print a JSON line for each change.
        sleep: Waits for that long.

    Raises:
        ConfigError: See :func:`take_snapshot`.
    """
    if as_json or not console.is_terminal:
        return _follow_lines(problem, event_printer(console.file, as_json=as_json), interval_s, sleep)
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


@contextmanager
def live_view(problem: SearchProblem, console: Console) -> Iterator[Listener]:
    """Show the search that this process drives as a live table; yield the listener for its driver.

    Events are printed above the table, as lines that stay. The table is drawn by a thread that reads the record and the
    trials' folders, so it shows what ``status --follow`` shows elsewhere.
    """

    def renderable() -> Group | Text:
        try:
            return draw(problem, take_snapshot(problem), height=console.height)
        except ConfigError:
            return Text('the search begins')  # there is no record yet

    with Live(console=console, get_renderable=renderable, refresh_per_second=1, transient=True) as live:
        yield event_printer(cast(IO[str], _Above(live.console)))


class _Above:
    """A stream whose lines appear above a live table."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> None:
        self._console.print(text, end='', markup=False, highlight=False)

    def flush(self) -> None:
        self._console.file.flush()


def print_snapshot(problem: SearchProblem, snapshot: Snapshot, console: Console, *, max_rows: int | None) -> None:
    """Print the stages with their cost, the running trials, the table of trials, and where the search stands."""
    console.print(_stage_table(snapshot.stages))
    if snapshot.running:
        console.print(_running_table(problem, snapshot.running))
    print_state(problem, snapshot.state, console, max_rows=max_rows)
    for line in _last_lines(snapshot):
        console.print(line, markup=False, highlight=False)


def _last_lines(snapshot: Snapshot) -> list[str]:
    if snapshot.over:
        return []
    left = 'not known yet' if snapshot.seconds_left is None else f'about {duration(snapshot.seconds_left)}'
    label = 'time left' if snapshot.running else 'time left, once it runs'
    return [f'{label}: {left}', snapshot.driver]


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
    return Group(*parts, Text('\n'.join([*lines, *_last_lines(snapshot)])))


def _stage_table(stages: list[StageCost]) -> Table:
    table = _table('cost', ('stage', 'trainings', 'T_max', 'lost attempts'))
    for s in stages:
        trainings = f'{s.trainings}' if s.planned is None else f'{s.trainings} of {s.planned}'
        cost = f'{s.cost:g} of {s.planned_cost:g}' if s.planned_cost else f'{s.cost:g}'  # a ramp has no planned cost
        table.add_row(s.name, trainings, cost, str(s.lost))
    return table


def _running_table(problem: SearchProblem, running: list[RunningTrial]) -> Table:
    unit = training_length(problem.cfg)[1]
    tuned = problem.settings.tuned_keys
    columns = ('trial', *titles(tuned), unit, 'done', 'loss', problem.settings.metric, 'attempt', 'since', 'where')
    table = _table('running', columns)
    for trial in running:
        table.add_row(
            trial.spec.key,
            *trial.spec.point.cells(tuned),
            f'{trial.fraction * trial.length:.3g} of {trial.length}',
            f'{trial.fraction:.0%}',
            f'{trial.progress.loss:.4g}' if trial.progress and trial.progress.loss is not None else '',
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
        if row.forked_from:
            text += f', continued {row.forked_from}'
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
