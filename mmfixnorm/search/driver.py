"""The loop of a search: plan, submit, poll, record, plan again.

The driver keeps nothing that it could not find again: what has ended is in the record, what runs or
has ended unseen is in the trials' folders, and the plan is a function of the record. So it may be
killed anywhere; the same command goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import make_folder
from mmfixnorm.search._utils.signals import StopFlag, stop_on_signals
from mmfixnorm.search._utils.writing import CannotWriteError, writing_to
from mmfixnorm.search.events import Event, Listener, ignore
from mmfixnorm.search.executors import build_executor
from mmfixnorm.search.executors.local import Executor, Exit, UnavailableError
from mmfixnorm.search.methods.bayesian import propose
from mmfixnorm.search.methods.values import describe
from mmfixnorm.search.planner import Best, Done, Propose, Run, Spec, Stuck, plan, replay
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.checkpoints import WeightKeeper
from mmfixnorm.search.record.lock import driver_lock
from mmfixnorm.search.record.study import StudyRecord, open_record
from mmfixnorm.search.retries import Retries
from mmfixnorm.search.trial.folder import LOG_FILE, TrialResult, read_result
from mmfixnorm.search.trial.task import check_folder, write_task

TRIAL_COMMAND = (sys.executable, '-m', 'mmfixnorm.search.trial')
_LOG_LINES = 8


@dataclass(frozen=True)
class Outcome:
    """How a run of the search command ended.

    Attributes:
        kind: ``done`` (there is a winner), ``stuck`` (there is none), ``interrupted``, or ``waiting``
            for trainings that somebody else runs.
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


def run_search(
    problem: SearchProblem,
    *,
    command: Sequence[str] = TRIAL_COMMAND,
    executor: Executor | None = None,
    listener: Listener = ignore,
    poll_s: float = 0.2,
) -> Outcome:
    """Run a search to its end, or go on with one that was interrupted in any way.

    Args:
        problem (SearchProblem): What to search, from :func:`.problem.load_problem`.
        command (Sequence[str]): The trial's command; it gets the trial's folder as last argument
            and leaves a :class:`.result.TrialResult` there.
        executor (Executor, optional): Runs the trials; by default what the settings say.
        listener (Listener): Is told each :class:`.events.Event`.
        poll_s (float): Time between two looks at the running trials, in seconds.

    Returns:
        Outcome: ``done``, ``stuck``, ``interrupted`` or ``waiting``.

    Raises:
        ConfigError: Something that the user has to put right; nothing is lost.
    """
    make_folder(problem.trials_dir, named_by='--work-dir')
    with driver_lock(problem.work_dir), stop_on_signals() as stop:
        record = open_record(problem.work_dir, problem.identity(), rule=problem.settings.rule)
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
        stop: StopFlag,
        poll_s: float,
    ) -> None:
        self._problem = problem
        self._record = record
        self._executor = executor
        self._tell = listener
        self._stop = stop
        self._poll_s = poll_s
        self._running: dict[str, _Running] = {}
        self._retries = Retries(problem.settings.max_attempts, problem.settings.backoff_s)
        self._unavailable = ''
        self._given_up: dict[str, str] = {}
        self._stages_told = 0
        self._weights = WeightKeeper(problem)
        self._planned = sum(n for _, n, _ in problem.outline_cost())
        self._looked_for: set[str] = set()
        self._planned_at: tuple[int, ...] | None = None

    def run(self) -> Outcome:
        begin = time.monotonic()
        self._emit('opened', f'search in {self._problem.work_dir}', recorded=self._recorded())
        try:
            kind, best, message = self._loop()
        except CannotWriteError:
            raise  # ending the trials is an end to write down; the next driver adopts them
        except ConfigError:
            self._cancel_all()
            raise
        if kind == 'interrupted':
            self._cancel_all()
        outcome = Outcome(kind, best, message, time.monotonic() - begin)
        winner = asdict(best) if best else None
        metric = self._problem.settings.metric
        text = f'winner {describe(best)}, {metric} {best.value:g}' if best else message
        self._emit('finished', f'{kind}: {text}', outcome=kind, best=winner)
        return outcome

    def _loop(self) -> tuple[str, Best | None, str]:
        while not self._stop:
            now = len(self._record.attempts), len(self._record.proposed), len(self._running)
            if now != self._planned_at:  # else nothing has ended, been proposed or started
                step = plan(self._problem.settings, self._record.history(), self._running.keys())
                self._tell_closed_stages()
                self._planned_at = now
            if isinstance(step, Done):
                self._weights.prune(self._record.attempts, winner=step.best.key)
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
        """Make a proposal and write it down; only then can any of it be submitted."""
        specs = propose(self._problem.settings, self._record.closed(), keys)
        with writing_to(self._problem.work_dir):
            self._record.add_proposed(specs)
        for spec in specs:
            self._emit('proposed', f'{spec.key} proposed, {describe(spec)}', **asdict(spec))

    def _advance(self, specs: Sequence[Spec]) -> bool:
        """Start and record what there is; say whether there was anything."""
        try:
            self._executor.refresh()
            started = self._start(specs)
            ended = self._poll()
        except UnavailableError as err:
            if str(err) != self._unavailable:
                self._emit('warning', f'waiting for what runs the trials: {err}')
            self._unavailable = str(err)
            return False
        self._unavailable = ''
        return started or ended

    def _start(self, specs: Sequence[Spec]) -> bool:
        """Adopt what runs already, then fill the free places; say whether there was anything."""
        before = len(self._running)
        for spec in specs:
            if spec.key not in self._looked_for:
                self._adopt(spec)
                self._looked_for.add(spec.key)
        for spec in specs:
            full = len(self._running) >= self._executor.workers
            if full or self._given_up or self._stop:
                break
            if spec.key in self._running or not self._retries.may_start(spec.key):
                continue
            # Once more: a claim can come late from a process that a killed driver had just started.
            if not self._adopt(spec):
                self._submit(spec)
        return len(self._running) > before

    def _adopt(self, spec: Spec) -> bool:
        """Take over what an earlier driver has started; say whether there was anything."""
        trial_dir = self._problem.trial_dir(spec.key)
        check_folder(trial_dir, spec, self._record.fingerprint)
        attempt = self._record.next_attempt(spec.key)
        handle = self._executor.adopt(trial_dir, attempt)
        if handle is None:
            return False
        self._running[spec.key] = _Running(spec, attempt, handle, time.monotonic())
        where = self._executor.describe(handle)
        self._emit('adopted', f'{spec.key} found, attempt {attempt}: {where}', key=spec.key, where=where)
        return True

    def _submit(self, spec: Spec) -> None:
        attempt = self._record.next_attempt(spec.key)
        trial_dir = self._problem.trial_dir(spec.key)
        with writing_to(self._problem.work_dir):
            write_task(self._problem, spec, attempt=attempt, fingerprint=self._record.fingerprint)
        data = {**asdict(spec), 'attempt': attempt}
        self._emit('submitting', f'{spec.key} {describe(spec)}, attempt {attempt}', **data)
        handle = self._executor.submit(trial_dir, attempt)
        self._running[spec.key] = _Running(spec, attempt, handle, time.monotonic())
        where = self._executor.describe(handle)
        self._emit('submitted', f'{spec.key} started: {where}', **data, where=where)

    def _poll(self) -> bool:
        """Record the trials that have ended; say whether there was one."""
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
        return time.monotonic() - run.since > limit

    def _finish(self, run: _Running, exit_: Exit | None) -> None:
        """Record the end of an attempt; ``exit_`` is None if it was ended for its time limit."""
        key = run.spec.key
        result = self._result(run) or self._failure(run, exit_)
        self._emit('ended', f'{key} {result.outcome}', key=key, outcome=result.outcome)
        self._write_down(run, result)
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
        last = _last_lines(self._problem.trial_dir(run.spec.key) / LOG_FILE)
        return self._without_value(run, 'failed', f'{message}\n{last}'.strip())

    def _without_value(self, run: _Running, outcome: str, message: str) -> TrialResult:
        return TrialResult(
            key=run.spec.key,
            attempt=run.attempt,
            fingerprint=self._record.fingerprint,
            outcome=outcome,
            message=message,
            seconds=round(time.monotonic() - run.since, 3),
        )

    def _write_down(self, run: _Running, result: TrialResult) -> None:
        cost = self._problem.cost(run.spec.fraction)
        with writing_to(self._problem.work_dir):
            self._record.add(run.spec, result, cost=cost)
        del self._running[run.spec.key]
        self._weights.prune(self._record.attempts)
        if result.value is not None:
            detail = f'{self._problem.settings.metric} {result.value:g}'
        else:
            detail = result.message.split('\n')[0]
        self._emit(
            'recorded',
            f'{run.spec.key} {describe(run.spec)}: {result.outcome}, {detail}, {result.seconds:.1f} s',
            **asdict(run.spec),
            outcome=result.outcome,
            value=result.value,
            attempt=run.attempt,
            cost=cost,
            progress=self._recorded(),
        )

    def _cancel_all(self) -> None:
        for run in list(self._running.values()):
            try:
                self._executor.cancel(run.handle)
                result = self._result(run)  # it may have made it
            except (ConfigError, UnavailableError) as err:  # the next run of the command finds it
                self._emit('warning', f'{run.spec.key} is not ended: {err}', key=run.spec.key)
                continue
            self._emit('stopping', f'{run.spec.key} is ended', key=run.spec.key)
            self._write_down(run, result or self._without_value(run, 'cancelled', 'ended by the driver'))

    def _tell_closed_stages(self) -> None:
        replayed = replay(self._problem.settings, self._record.history())
        stages = [s for s in replayed.stages if not s.missing]
        for stage in stages[self._stages_told :]:
            text = f'{describe(stage.best)}, {stage.best.value:g}' if stage.best else 'none'
            self._emit(
                'closed',
                f'{stage.name} closed, best: {text}',
                stage=stage.name,
                best=asdict(stage.best) if stage.best else None,
            )
        if len(stages) > self._stages_told and replayed.finished:
            for warning in replayed.warnings:
                self._emit('warning', warning)
        self._stages_told = max(self._stages_told, len(stages))

    def _recorded(self) -> str:
        """Closed trainings out of those planned, as text."""
        return f'{len(self._record.closed())}/{self._planned}'

    def _emit(self, kind: str, text: str, **data: object) -> None:
        self._tell(Event(kind, text, data))


def _last_lines(log: Path) -> str:
    if not log.exists():
        return ''
    with open(log, 'rb') as f:
        f.seek(max(0, log.stat().st_size - 4000))
        lines = f.read().decode(errors='replace').strip().splitlines()
    return '\n'.join(lines[-_LOG_LINES:])
