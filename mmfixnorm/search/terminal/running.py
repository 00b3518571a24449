"""The trials that run now, as their folders show them, without the driver that started them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmfixnorm.search.executors.claim import (
    claim_file,
    claim_words,
    has_result,
    note_file,
    read_claim,
    start_time,
    waiting_job,
)
from mmfixnorm.search.methods.base import Replay, Spec
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState
from mmfixnorm.search.record.study import StudyRecord
from mmfixnorm.search.trial.folder import CURVE_FILE, TrainingProgress, read_curve, read_progress


class RunningTrial(NamedTuple):
    """A trial that was started and is not in the record.

    Attributes:
        spec: What it trains.
        attempt: Which attempt, from 1.
        where: The process or job that runs it, as its claim names it, or the job that will.
        since: When it was claimed, in seconds since the epoch.
        step: Epochs or iterations at its last validation; 0 before the first.
        length: Epochs or iterations at its end.
        value: The metric at its last validation; None before the first.
        progress: How far the training is; None before it has said so.
        ended: Whether it has left its result, which the driver has not recorded yet.
    """

    spec: Spec
    attempt: int
    where: str
    since: float
    step: int
    length: int
    value: float | None
    progress: TrainingProgress | None
    ended: bool

    @property
    def fraction(self) -> float:
        """The part of the training that is done, in [0, 1]."""
        if self.ended:
            return 1.0
        return self.progress.fraction if self.progress else min(1.0, self.step / self.length)


def running_trials(problem: SearchProblem, record: StudyRecord, replayed: Replay) -> list[RunningTrial]:
    """List the trials of the unfinished stage whose next attempt is claimed; reads only."""
    open_specs = replayed.stages[-1].missing if replayed.stages else ()
    trials = (_read_trial(problem, spec, record.next_attempt(spec.key)) for spec in open_specs)
    return [trial for trial in trials if trial is not None]


def _read_trial(problem: SearchProblem, spec: Spec, attempt: int) -> RunningTrial | None:
    folder = problem.trial_dir(spec.key)
    claim = claim_file(folder, attempt)
    path = claim if claim.exists() else note_file(claim)
    try:
        since = path.stat().st_mtime
        where = _where(claim) if path == claim else f'{waiting_job(claim)} waits'
    except FileNotFoundError:
        return None
    curve = read_curve(folder / CURVE_FILE)
    step = max(curve, default=0)
    length = problem.length(spec.fraction)
    progress = read_progress(folder, attempt=attempt)
    return RunningTrial(spec, attempt, where, since, step, length, curve.get(step), progress, has_result(claim))


def time_left(problem: SearchProblem, state: SearchState, running: Sequence[RunningTrial], now: float) -> float | None:
    """Estimate the seconds until the search is over, if all planned trainings are needed.

    From the speed of the trials that have finished, or of those that run while none has; trials that run at a time
    share what is left.

    Args:
        problem (SearchProblem): The search.
        state (SearchState): Where it stands.
        running (Sequence[RunningTrial]): What runs.
        now (float): Seconds since the epoch.

    Returns:
        float | None: None while no speed is known.
    """
    costs = [problem.cost(trial.spec.fraction) * trial.fraction for trial in running]
    seconds, cost = state.finished_seconds, state.cost
    if not cost:
        seconds = sum(max(0.0, now - t.since) for t, c in zip(running, costs, strict=True) if c)
        cost = sum(costs)
    if not cost or state.replayed.finished or state.replayed.stuck:
        return None if not cost else 0.0
    left = max(0.0, state.planned_cost - state.cost - state.saved_cost - sum(costs))
    return left * seconds / cost / max(1, len(running) or problem.settings.workers)


def _where(path: Path) -> str:
    """Name the process in words; the claims of other executors are words already."""
    if claim := read_claim(path):
        gone = claim.host == os.uname().nodename and start_time(claim.pid) != claim.started
        return f'process {claim.pid} on {claim.host}' + (' (gone)' if gone else '')
    words = claim_words(path)
    return ' '.join(words[:2]) if words else 'starting'


def driver_of(work_dir: Path) -> str:
    """Name the driver by the contents of its lock file; the lock itself is not touched."""
    try:
        holder = json.loads((work_dir / 'driver.lock').read_text(encoding='utf-8'))
        pid, host, started = holder['pid'], holder['host'], holder['started']
    except (FileNotFoundError, ValueError, KeyError):
        return 'no driver yet'
    if host != os.uname().nodename:
        return f'driver: process {pid} on {host}'
    if start_time(pid) != started:
        return 'no driver runs; the `run` command continues'
    return f'driver: process {pid}'
