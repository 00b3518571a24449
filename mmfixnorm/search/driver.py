"""The loop of a search: plan, submit, poll, record, plan again.

The driver keeps nothing that it could not find again: what has ended is in the record, what runs or has ended unseen is
in the trials' folders, and the plan is a function of the record. So it may be killed anywhere; the same command
continues.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import CannotWriteError, make_folder, writing_to
from mmfixnorm.search._utils.signals import StopRequested, stop_on_signals
from mmfixnorm.search.events import Event, Listener, ignore
from mmfixnorm.search.executors import build_executor
from mmfixnorm.search.executors.base import Executor, Exit, UnavailableError
from mmfixnorm.search.executors.claim import claim_file, claimed_s
from mmfixnorm.search.methods.base import Best, Spec, StageKind, point_in
from mmfixnorm.search.planner import Done, Propose, Run, Stuck, plan, propose, replay
from mmfixnorm.search.problem import SearchProblem, check_can_be_written
from mmfixnorm.search.record.checkpoints import CheckpointPruner
from mmfixnorm.search.record.forks import Forks
from mmfixnorm.search.record.lock import driver_lock
from mmfixnorm.search.record.same_training import KnownTrainings, result_of
from mmfixnorm.search.record.state import trial_warnings
from mmfixnorm.search.record.study import StudyRecord, open_record
from mmfixnorm.search.trial.folder import (
    LOG_FILE,
    SPEC_FILE,
    TrialResult,
    read_log_end,
    read_progress,
    read_result,
    read_task,
    write_task,
)

TRIAL_COMMAND = (sys.executable, '-m', 'mmfixnorm.search.trial')
_LOG_LINES, _LOG_BYTES = 8, 4000
_LONGEST_BACKOFF = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a run of the search command ended.

    Attributes:
        kind: ``done`` (there is a winner), ``stuck`` (there is none), ``interrupted``, or ``waiting``
            for trainings that the user runs.
        best: The winner.
        message: Why there is none; when waiting, the commands to run, one per line.
        seconds: Wall-clock time of this run.
    """

    kind: str
    best: Best | None
    message: str
    seconds: float


@dataclass
class _Running:
    spec: Spec
    attempt: int
    handle: str
    since: float
    before_s: float = 0.0  # of the attempt, under an earlier driver


def run_search(
    problem: SearchProblem,
    *,
    command: Sequence[str] = TRIAL_COMMAND,
    executor: Executor | None = None,
    listener: Listener = ignore,
    poll_s: float = 0.2,
) -> Outcome:
    """Run a search to its end, or continue one that was interrupted in any way.

    Args:
        problem (SearchProblem): What to search, from :func:`.problem.load_problem`.
        command (Sequence[str]): The trial's command; it gets the trial's folder as last argument
            and leaves a :class:`.trial.folder.TrialResult` there.
        executor (Executor, optional): Runs the trials; by default the one that the settings name.
        listener (Listener): Called with each :class:`.events.Event`.
        poll_s (float): Time between two polls of the running trials, in seconds.

    Returns:
        Outcome: ``done``, ``stuck``, ``interrupted`` or ``waiting``.

    Raises:
        ConfigError: The user has to put something right; nothing is lost.
    """
    check_can_be_written(problem.cfg)
    make_folder(problem.trials_dir, named_by='--work-dir')
    with driver_lock(problem.work_dir), stop_on_signals() as stop:
        record = open_record(problem)
        make_folder(problem.trials_dir, named_by='--work-dir')  # it may have been moved aside
        if executor is None:
            executor = build_executor(problem.settings, command)
        return _Driver(problem, record, executor, listener, stop, poll_s).run()


class _Driver:
    def __init__(
        self,
        problem: SearchProblem,
        record: StudyRecord,
        executor: Executor,
        listener: Listener,
        stop: StopRequested,
        poll_s: float,
    ) -> None:
        self._problem = problem
        self._record = record
        self._executor = executor
        self._listener = listener
        self._stop = stop
        self._poll_s = poll_s
        self._running: dict[str, _Running] = {}
        self._retries = Retries(problem.settings.max_attempts, problem.settings.backoff_s)
        self._unavailable = ''
        self._given_up: dict[str, str] = {}
        self._stages_reported = 0
        self._warnings_reported: set[str] = set()
        self._notes_reported: set[str] = set()
        self._checkpoints = CheckpointPruner(problem)
        self._known = KnownTrainings(problem, record.attempts)
        self._forks = Forks(problem, self._known, record.fingerprint, record.attempts)
        self._planned = sum(n for _, n, _ in problem.planned_costs())
        self._checked_for_claim: set[str] = set()
        self._state_at_plan: tuple[int, ...] | None = None
        self._state_at_reuse: tuple[int, ...] | None = None

    def run(self) -> Outcome:
        begin = time.monotonic()
        self._emit('opened', f'search in {self._problem.work_dir}', recorded=self._recorded())
        try:
            kind, best, message = self._loop()
        except CannotWriteError:
            raise  # ending the trials would have to be written too; the next driver adopts them
        except ConfigError:
            self._cancel_all()
            raise
        if kind == 'interrupted':
            self._cancel_all()
        outcome = Outcome(kind, best, message, time.monotonic() - begin)
        winner = best.to_dict() if best else None
        metric = self._problem.settings.metric
        text = f'winner {best.point}, {metric} {best.value:g}' if best else message
        self._emit('finished', f'{kind}: {text}', outcome=kind, best=winner)
        return outcome

    def _loop(self) -> tuple[str, Best | None, str]:
        while not self._stop:
            now = len(self._record.attempts), len(self._record.proposed), len(self._running)
            if now != self._state_at_plan:  # else nothing has ended, been proposed or started
                step = plan(self._problem.settings, self._record.history(), self._running.keys())
                if isinstance(step, Done) and self._settle(step.left):
                    continue
                self._report_finished_stages()
                self._state_at_plan = now
            if isinstance(step, Done):
                self._checkpoints.prune(self._record.attempts, winner=None if step.left else step.best.key)
                return 'done', step.best, ''
            if isinstance(step, Stuck):
                return 'stuck', None, step.reason
            if isinstance(step, Propose):
                self._propose(step.keys)
                continue
            if self._given_up and not self._running:
                return 'stuck', None, '\n'.join(self._given_up.values())
            if not self._advance(step.specs if isinstance(step, Run) else ()):
                if self._running and not self._executor.waits:
                    return 'waiting', None, '\n'.join(self._executor.describe(r.handle) for r in self._running.values())
                time.sleep(self._poll_s)
        return 'interrupted', None, f'ended by {self._stop.signal_name}'

    def _propose(self, keys: Sequence[str]) -> None:
        """Make a proposal and write it to the record; only then can any of it be submitted."""
        specs = propose(self._problem.settings, self._record.finished(), keys)
        with writing_to(self._problem.work_dir):
            self._record.add_proposed(specs)
        for spec in specs:
            self._emit('proposed', f'{spec.key} proposed, {spec.point}', **spec.to_dict())

    def _advance(self, specs: Sequence[Spec]) -> bool:
        """Start and record trials; return whether anything happened."""
        try:
            self._executor.refresh()
            if self._poll():
                return True
            self._warn(filter(None, (self._executor.held_back(run.handle) for run in self._running.values())))
            if self._state_at_plan != self._state_at_reuse:  # else nothing has ended since
                if self._reuse(specs):
                    return True
                self._state_at_reuse = self._state_at_plan
            started = self._start(specs)
        except UnavailableError as err:
            self._tell_unavailable(err)
            return False
        if self._executor.workers:  # else the same is not told again before it is tried again
            self._unavailable = ''
        return started

    def _reuse(self, specs: Sequence[Spec]) -> bool:
        """Record the trainings that are the same as finished ones; return whether there was one."""
        found = False
        for spec in specs:
            same = self._known.same_as(spec)
            if same is None or self._adopt(spec):
                continue
            result = result_of(same, spec, attempt=self._record.next_attempt(spec.key))
            self._write_end(spec, result)
            found = True
        return found

    def _start(self, specs: Sequence[Spec]) -> bool:
        """Adopt the trials that run already, then fill the free places; return whether any was started."""
        before = len(self._running)
        for spec in specs:
            if spec.key not in self._checked_for_claim:
                self._adopt(spec)
                self._checked_for_claim.add(spec.key)
        if len(self._running) >= self._executor.workers:
            return len(self._running) > before
        for spec in self._known.in_order(specs):
            full = len(self._running) >= self._executor.workers
            if full or self._given_up or self._stop:
                break
            if spec.key in self._running or not self._retries.may_start(spec.key):
                continue
            if any(self._may_become_same(spec, run) for run in self._running.values()):
                continue  # its result may be this one's
            # Once more: a claim can come late from a process that a killed driver had just started.
            if not self._adopt(spec):
                self._submit(spec)
        return len(self._running) > before

    def _may_become_same(self, spec: Spec, run: _Running) -> bool:
        if not self._known.may_become_same(spec, run.spec, None):
            return False
        progress = read_progress(self._problem.trial_dir(run.spec.key), attempt=run.attempt)
        return self._known.may_become_same(spec, run.spec, progress.largest_scale if progress else None)

    def _adopt(self, spec: Spec) -> bool:
        """Take over a trial that an earlier driver has started; return whether there was one."""
        trial_dir = self._problem.trial_dir(spec.key)
        check_folder(trial_dir, spec, self._record.fingerprint)
        attempt = self._record.next_attempt(spec.key)
        handle = self._executor.adopt(trial_dir, attempt)
        if handle is None:
            return False
        before_s = claimed_s(claim_file(trial_dir, attempt))
        self._running[spec.key] = _Running(spec, attempt, handle, time.monotonic(), before_s)
        where = self._executor.describe(handle)
        self._emit('adopted', f'{spec.key} found, attempt {attempt}: {where}', key=spec.key, where=where)
        return True

    def _settle(self, specs: Sequence[Spec]) -> bool:
        """Take in what is there of trainings that the budget has no room for; return whether there was any.

        One that is the same as another costs nothing; one that an earlier driver has started is waited for.
        """
        try:
            self._executor.refresh()
            if self._reuse(specs):
                return True
            adopted = [self._adopt(spec) for spec in specs]  # all of them
            return any(adopted)
        except UnavailableError as err:
            self._tell_unavailable(err)
            time.sleep(self._poll_s)
            return True

    def _tell_unavailable(self, err: UnavailableError) -> None:
        """Tell once that the driver waits, however often it asks again."""
        if str(err) != self._unavailable:
            self._emit('warning', f'waiting for what runs the trials: {err}')
        self._unavailable = str(err)

    def _submit(self, spec: Spec) -> None:
        attempt = self._record.next_attempt(spec.key)
        trial_dir = self._problem.trial_dir(spec.key)
        task = self._problem.trial_task(
            spec,
            attempt=attempt,
            fingerprint=self._record.fingerprint,
            fork_alphas=self._forks.alphas_after(spec),
        )
        with writing_to(self._problem.work_dir):
            write_task(trial_dir, self._problem.trial_config(spec), task)
            about_start = self._forks.begin(spec, [run.spec for run in self._running.values()])
        if about_start:
            self._emit('forking', about_start, key=spec.key)
        data = {**spec.to_dict(), 'attempt': attempt}
        self._emit('submitting', f'{spec.key} {spec.point}, attempt {attempt}', **data)
        handle = self._executor.submit(trial_dir, attempt)
        self._running[spec.key] = _Running(spec, attempt, handle, time.monotonic())
        where = self._executor.describe(handle)
        self._emit('submitted', f'{spec.key} started: {where}', **data, where=where)

    def _poll(self) -> bool:
        """Record the trials that have ended; return whether there was one."""
        ended = False
        for run in list(self._running.values()):
            exit_ = self._executor.poll(run.handle)
            if exit_ is None and self._is_late(run):
                self._executor.cancel(run.handle)
                self._finish(run, None)
                ended = True
            elif exit_ is not None:
                self._finish(run, exit_)
                ended = True
        return ended

    def _is_late(self, run: _Running) -> bool:
        limit = self._problem.settings.timeout_s
        if limit is None or self._executor.limits_time:
            return False
        return run.before_s + time.monotonic() - run.since > limit  # of the attempt, whichever driver started it

    def _finish(self, run: _Running, exit_: Exit | None) -> None:
        """Record the end of an attempt; ``exit_`` is None if the driver ended it at its time limit."""
        key = run.spec.key
        result = self._result(run) or self._failure(run, exit_)
        self._emit('ended', f'{key} {result.outcome}', key=key, outcome=result.outcome)
        self._write_end(run.spec, result)
        if result.outcome == 'broken':
            raise ConfigError(f'trial {key}: {result.message}')
        if result.outcome == 'failed' and not (exit_ and exit_.unwatched):
            wait_s = self._retries.failed(key)
            if wait_s is None:
                self._give_up(key, result)
            elif wait_s:
                self._emit('retrying', f'{key} is tried again in {wait_s:g} s', key=key, wait_s=wait_s)

    def _give_up(self, key: str, result: TrialResult) -> None:
        log = self._problem.trial_dir(key) / LOG_FILE
        self._given_up[key] = (
            f'{key} failed {self._retries.failures(key)} times (search.max_attempts): {result.message}\n'
            f'its log is {log}; the same command tries it again'
        )
        self._emit('stopping', f'{key} is out of attempts; no other trial is started', key=key)

    def _result(self, run: _Running) -> TrialResult | None:
        return read_result(
            self._problem.trial_dir(run.spec.key),
            key=run.spec.key,
            attempt=run.attempt,
            fingerprint=self._record.fingerprint,
        )

    def _failure(self, run: _Running, exit_: Exit | None) -> TrialResult:
        reason = f'search.timeout_s = {self._problem.settings.timeout_s} passed'
        message = str(exit_) if exit_ else reason
        log = read_log_end(self._problem.trial_dir(run.spec.key) / LOG_FILE, _LOG_BYTES)
        last = '\n'.join(log.splitlines()[-_LOG_LINES:])
        return self._without_value(run, 'failed', f'{message}\n{last}'.strip())

    def _without_value(self, run: _Running, outcome: str, message: str) -> TrialResult:
        progress = read_progress(self._problem.trial_dir(run.spec.key), attempt=run.attempt)
        seconds = time.monotonic() - run.since  # without what it took before this driver has found it
        return TrialResult(
            key=run.spec.key,
            attempt=run.attempt,
            fingerprint=self._record.fingerprint,
            outcome=outcome,
            message=message,
            seconds=round(max(seconds, progress.seconds if progress else 0.0), 3),
        )

    def _write_end(self, spec: Spec, result: TrialResult) -> None:
        with writing_to(self._problem.work_dir):
            cost = result.ramp.get('part', 0.0) if spec.is_ramp else self._problem.cost(spec.fraction)
            attempt = self._record.add(spec, result, cost=cost)
        self._known.add(attempt)
        self._forks.add(attempt)
        self._running.pop(spec.key, None)
        self._checkpoints.prune(self._record.attempts)
        detail = result.message.split('\n')[0]
        if result.value is not None:
            detail = f'{self._problem.settings.metric} {result.value:g}'
        took = f'the same training as {result.same_as}' if result.same_as else f'{result.seconds:.1f} s'
        if result.forked_from:
            took += f', continued {result.forked_from} from iteration {result.forked_at}'
        self._emit(
            'recorded',
            f'{spec.key} {spec.point}: {result.outcome}, {detail}, {took}',
            **spec.to_dict(),
            outcome=result.outcome,
            value=result.value,
            attempt=result.attempt,
            cost=attempt.spent,
            same_as=result.same_as,
            forked_from=result.forked_from,
            progress=self._recorded(),
        )
        self._warn(trial_warnings(self._record.attempts))

    def _cancel_all(self) -> None:
        running = list(self._running.values())
        for run in running:  # all are asked first, then waited for: a cluster takes its time with each
            try:
                self._executor.request_end(run.handle)
            except (ConfigError, UnavailableError):
                continue  # told below, where it is cancelled
        for run in running:
            try:
                self._executor.cancel(run.handle)
                result = self._result(run)  # it may have made it
            except (ConfigError, UnavailableError) as err:  # the next run of the command finds it
                self._emit('warning', f'{run.spec.key} is not ended: {err}', key=run.spec.key)
                continue
            self._emit('stopping', f'{run.spec.key} is ended', key=run.spec.key)
            self._write_end(run.spec, result or self._without_value(run, 'cancelled', 'ended by the driver'))

    def _report_finished_stages(self) -> None:
        replayed = replay(self._problem.settings, self._record.history())
        self._forks.follow(replayed)
        stages = [s for s in replayed.stages if not s.missing]
        for stage in stages[self._stages_reported :]:
            text = f'best: {stage.best.point}, {stage.best.value:g}' if stage.best else 'best: none'
            if stage.kind is StageKind.RAMP and stage.lr_range:
                text = '{:g} to {:g}'.format(*stage.lr_range)
            self._emit(
                'closed',
                f'{stage.name} closed, {text}',
                stage=stage.name,
                best=stage.best.to_dict() if stage.best else None,
            )
        for note in replayed.notes:
            if note not in self._notes_reported:
                self._emit('decided', note)
                self._notes_reported.add(note)
        if len(stages) > self._stages_reported:
            self._warn(replayed.warnings)
        self._stages_reported = max(self._stages_reported, len(stages))

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            if warning not in self._warnings_reported:
                self._emit('warning', warning)
                self._warnings_reported.add(warning)

    def _recorded(self) -> str:
        """Count the finished trainings of the planned ones, as text."""
        return f'{len(self._record.finished())}/{self._planned}'

    def _emit(self, kind: str, text: str, **data: object) -> None:
        self._listener(Event(kind, text, data))


class Retries:
    """Which failed trials are tried again, and when; counts the failures of one run of the driver.

    Args:
        max_attempts (int): Attempts at a trial.
        backoff_s (float): After its k-th failure a trial waits ``min(60, 2**k)`` times this, in
            seconds.
    """

    def __init__(self, max_attempts: int, backoff_s: float) -> None:
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def failed(self, key: str) -> float | None:
        """Count a failure; return the seconds until the next attempt, or None if no attempt is left."""
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] >= self._max_attempts:
            return None
        wait_s = self._backoff_s * min(_LONGEST_BACKOFF, 2.0 ** self._failures[key])
        self._not_before[key] = time.monotonic() + wait_s
        return wait_s

    def failures(self, key: str) -> int:
        """Return the failures so far."""
        return self._failures.get(key, 0)

    def may_start(self, key: str) -> bool:
        """Return whether the trial need not wait, or has waited long enough."""
        return time.monotonic() >= self._not_before.get(key, 0.0)


def check_folder(trial_dir: Path, spec: Spec, fingerprint: str) -> None:
    """Check that the contents of a trial's folder belong to this search, and were trained at the point of ``spec``.

    They can differ if the record of a search was lost: after a change of the config its checkpoints are another
    search's; and points that are proposed from results are others with other versions of the libraries.

    Raises:
        ConfigError: The folder belongs to another search or point, or its task cannot be read; nothing is changed.
    """
    task = read_task(trial_dir)
    if task is None:
        return
    if task['fingerprint'] != fingerprint:
        raise ConfigError(
            f'{trial_dir / SPEC_FILE}: is of search {task["fingerprint"]!r}, expected {fingerprint!r}: the config has '
            f'changed and the record of that search is not here; nothing was changed; move {str(trial_dir.parent)!r} '
            'away, or use another --work-dir'
        )
    if (trained := point_in(task)) != spec.point:
        raise ConfigError(
            f'{trial_dir / SPEC_FILE}: was trained with {trained}, expected {spec.point}; nothing was changed; '
            'move the folder away to train this point again, or put back the record that belongs to it'
        )
