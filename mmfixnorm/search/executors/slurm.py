"""Trials as Slurm jobs, by sbatch, squeue, scancel and scontrol.

Not by submitit: without accounting it reports every job as UNKNOWN and never notices one that was
killed, and a trial is a command with a folder, so there is no Python function to pickle. squeue knows
the state of a job while it is there and for ``MinJobAge`` seconds after its end (300 by default), with
and without accounting, and answers for all jobs at once.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.files import write_json, writing_to
from mmfixnorm.search.executors.base import (
    Executor,
    Exit,
    NodesSettings,
    UnavailableError,
    in_processes,
    lines_of_shell,
)
from mmfixnorm.search.executors.claim import (
    attempt_name,
    attempt_names,
    check_owner,
    claim_file,
    has_result,
    name_prefix,
    note_file,
    revoke,
)
from mmfixnorm.search.executors.slurm_script import job_script
from mmfixnorm.search.trial.folder import LOG_FILE, read_task

_ENDED = frozenset(
    {'BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED'}
    | {'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED', 'REVOKED', 'TIMEOUT'}
)
# Ends without a result that may be wrong: the result is seen late, or the process runs on a node that was lost.
_UNCERTAIN = frozenset({'COMPLETED', 'NODE_FAIL'})
# Why a job waits that starts when its turn comes.
_IN_TURN = frozenset({'None', 'Priority', 'Resources', 'BeginTime', 'Dependency', 'Cleaning'})
_WATCH_S = 5.0  # what still runs of a revoked attempt has ended by then, where its node sees the claim at once
_CALL_S = 60.0  # a controller that is down lets its clients wait about 10 s
# What sbatch says when it is Slurm's fault; everything else is a refusal, of the first job of a search.
_TRANSIENT = (
    *('timed out', 'contact slurm controller', 'temporarily', 'has not answered'),
    *('Zero Bytes were transmitted', 'Unexpected message received', 'I/O error writing script'),
)
_CANCEL_S = 120.0  # Slurm gives a job 30 s (KillWait) between SIGTERM and SIGKILL


@dataclass(frozen=True)
class SlurmSettings(NodesSettings):
    """One Slurm job per trial, on one node or several.

    Args:
        gpus_per_trial (int): GPUs on all nodes of a trial together; 0 asks for none and trains on the CPU, in one
            process on each node.
        nodes_per_trial (int): Nodes of a job. Each runs ``torch.distributed.run`` in one job step; the end of one
            process ends the attempt.
        partition (str, optional): ``sbatch --partition``.
        account (str, optional): ``sbatch --account``.
        cpus_per_trial (int, optional): CPUs on all nodes of a trial together, as ``sbatch --cpus-per-task`` on each
            node; None leaves it to the cluster.
        time_min (int, optional): ``sbatch --time``, in minutes; None means ``search.timeout_s``,
            rounded up, and without that the partition's own limit.
        notice_s (int, optional): ``sbatch --signal=USR1@notice_s``: so many seconds before a job reaches its time
            limit (and before it is preempted, where the cluster gives notice), its trial writes a checkpoint, in the
            middle of an epoch too, and returns to the queue as the same attempt. The limit is then that of each run of
            a job.
        setup (list[str]): Lines of shell that a job runs first, such as ``module load cuda``.
        sbatch_args (list[str]): More options of sbatch, such as ``--mem=32G``.
        poll_s (float): Time between two questions to Slurm, in seconds.
    """

    kind: ClassVar[str] = 'slurm'

    partition: str | None = None
    account: str | None = None
    cpus_per_trial: int | None = None
    time_min: int | None = None
    notice_s: int | None = None
    setup: tuple[str, ...] = ()
    sbatch_args: tuple[str, ...] = ()
    poll_s: float = 10.0

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=0)
        for key in ('cpus_per_trial', 'time_min', 'notice_s'):
            if getattr(self, key) is not None:
                checks.integer(f'executor.{key}', getattr(self, key), at_least=1)
        self._check_notice(self.time_min)
        self.check_nodes('cpus_per_trial')
        for key in ('partition', 'account'):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not value):
                raise checks.fail(f'executor.{key}', 'a name', value)
        for key in ('setup', 'sbatch_args'):
            object.__setattr__(self, key, lines_of_shell(key, getattr(self, key)))
        checks.positive('executor.poll_s', self.poll_s)

    def build(self, *, workers: int, command: Sequence[str], timeout_s: float | None) -> SlurmExecutor:
        time_min = self.time_min or (math.ceil(timeout_s / 60) if timeout_s else None)
        self._check_notice(time_min)
        return SlurmExecutor(workers, in_processes(command, self), self, time_min=time_min)

    def _check_notice(self, time_min: int | None) -> None:
        if self.notice_s and time_min and self.notice_s >= 60 * time_min:
            of = 'time_min' if self.time_min else 'search.timeout_s in minutes'
            rule = f'below the time limit of a job, {of} = {time_min} ({60 * time_min} s)'
            raise checks.fail('executor.notice_s', rule, self.notice_s)


class SlurmExecutor(Executor):
    """One job per trial, adopted by its id; several drivers' worth of jobs never mix, by their names.

    Once Slurm has taken a job of the search, a refusal, as at a limit of submissions, is waited out: ``workers`` is 0
    for ``poll_s`` after it.

    A job that has ended in whatever way without a result is a failed attempt; one that Slurm
    requeues (preemption, a lost node, ``scontrol requeue``) continues in the same attempt, from the
    newest checkpoint that can be loaded. While Slurm does not answer, nothing is concluded.

    Slurm may be wrong about an end: it gives up a node on which the process goes on, and a controller that was killed
    forgets jobs that it has just accepted. So the claim of an attempt is revoked before the attempt counts as failed,
    and what still runs of it ends itself.

    Args:
        workers (int): Jobs at a time, waiting ones included.
        command (Sequence[str]): The trial's command, to which its folder is appended.
        settings (SlurmSettings): What to ask of Slurm.
        time_min (int, optional): Wall-clock limit of a job, in minutes.
        result_s (float): How long to wait for the result of a job that succeeded, that Slurm has forgotten or whose
            node it has lost, and for the end of one whose result is there, in seconds; NFS shows new files after 60 s,
            by default.
    """

    limits_time = True

    def __init__(
        self,
        workers: int,
        command: Sequence[str],
        settings: SlurmSettings,
        *,
        time_min: int | None = None,
        result_s: float = 70.0,
    ) -> None:
        self.workers = self._most = workers
        self._command = list(command)
        self._settings = settings
        self._time_min = time_min
        self._queue = SlurmQueue(settings.poll_s)
        self._result_s = result_s
        self._disagree: dict[str, float] = {}  # handle -> when that was seen first
        self._submitted: dict[str, int] = {}  # handle -> answers of squeue before
        self._asked_why: dict[str, int] = {}  # handle -> answers of squeue that were asked why it waits
        self._accepted = False
        self._paused_until = 0.0

    def refresh(self) -> None:
        self._queue.refresh()
        if time.monotonic() >= self._paused_until:
            self.workers = self._most

    def submit(self, trial_dir: Path, attempt: int) -> str:
        handle = str(claim_file(trial_dir, attempt))
        try:
            answer = call('sbatch', *self._options(trial_dir, handle), stdin=self._script(handle))
        except UnavailableError as err:
            self._queue.refresh(now=True)  # it answers: then sbatch was refused, and raises if not
            if self._adopt_by_name(handle):
                self._accepted = True
                return handle
            if not self._accepted and not any(words in str(err) for words in _TRANSIENT):
                raise ConfigError(f'search.executor: {err}') from err
            self.workers, self._paused_until = 0, time.monotonic() + self._settings.poll_s
            raise
        self._accepted = True
        self._submitted[handle] = self._queue.answers
        self._note(handle, answer.strip().split(';')[0])
        return handle

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        path = claim_file(trial_dir, attempt)
        check_owner(path, 'slurm')
        note = note_file(path)
        if note.exists():
            cluster = json.loads(note.read_text(encoding='utf-8'))['cluster']
            if cluster != self._queue.cluster:
                raise ConfigError(
                    f'{note}: this attempt is a job of the cluster {cluster!r}, this is {self._queue.cluster!r}; '
                    'continue there, or delete that file if the attempt has ended'
                )
        # A driver that was killed between sbatch and its note leaves a job, or its claim.
        elif not path.exists():
            if read_task(trial_dir) is None:  # a job of a folder that was deleted or moved aside has nothing to train
                if any(not job.ended for job in self._jobs(str(path))):
                    self._scancel(str(path))
                    self._wait_for_end(str(path))
                return None
            if not self._adopt_by_name(str(path)):
                return None
        self._accepted = True
        return str(path)

    def poll(self, handle: str) -> Exit | None:
        if self._submitted.get(handle) == self._queue.answers:
            return None
        jobs = self._jobs(handle)
        result = has_result(Path(handle))
        if any(not job.ended for job in jobs):
            if not result:
                self._disagree.pop(handle, None)
            if not result or not self._has_waited(handle, self._result_s):
                return None
            # A controller that was away while the job ended may hold on to it, or start it again.
            self._scancel(handle)
            return Exit(0)
        mine = self._job_id(handle)
        job = next((job for job in jobs if job.job_id == mine), None)
        if not result:
            if job is None and not self._queue.lacks(mine):
                return None
            self._revoke(handle)
            wait_s = self._result_s if job is None or job.state in _UNCERTAIN else min(_WATCH_S, self._result_s)
            if not self._has_waited(handle, wait_s):
                return None
        how = f'ended as {job.state} ({job.reason})' if job else 'is not in the queue any more (squeue)'
        return Exit(None, f'its Slurm job {mine} {how}')

    def held_back(self, handle: str) -> str | None:
        if self._asked_why.get(handle) == self._queue.answers:
            return None  # told already; a shared file system is not asked again
        self._asked_why[handle] = self._queue.answers
        waiting = [job.reason for job in self._jobs(handle) if job.state == 'PENDING' and job.reason not in _IN_TURN]
        if not waiting:
            return None
        return (
            f'Slurm holds jobs of this search back: {waiting[0]} (`squeue --me --states=PENDING`). If that does not '
            'pass by itself, as a limit of the partition, end the search with Ctrl-C and change search.executor'
        )

    def request_end(self, handle: str) -> None:
        self._scancel(handle)

    def cancel(self, handle: str) -> None:
        self._scancel(handle)
        self._wait_for_end(handle)
        if not has_result(Path(handle)):
            self._revoke(handle)

    def describe(self, handle: str) -> str:
        return f'Slurm job {self._job_id(handle)}'

    def _has_waited(self, handle: str, seconds: float) -> bool:
        """Return whether Slurm and the folder have disagreed for so long."""
        since = self._disagree.setdefault(handle, time.monotonic())
        return time.monotonic() - since > seconds

    def _jobs(self, handle: str) -> list[Job]:
        """Return the jobs of an attempt: those of its name, and the noted one whatever path has named it."""
        path = Path(handle)
        jobs = [job for name in attempt_names(path) for job in self._queue.named(name)]
        noted = self._queue.numbered(self._job_id(handle))
        if noted and noted not in jobs and noted.name.startswith(name_prefix(path)):
            jobs.append(noted)
        return jobs

    def _wait_for_end(self, handle: str) -> None:
        give_up = time.monotonic() + _CANCEL_S
        self._queue.refresh(now=True)
        while any(not job.ended for job in self._jobs(handle)):
            if time.monotonic() > give_up:
                raise UnavailableError(f'{self.describe(handle)} is still running {_CANCEL_S:g} s after scancel')
            time.sleep(min(1.0, self._settings.poll_s))
            self._queue.refresh(now=True)

    def _scancel(self, handle: str) -> None:
        for name in attempt_names(Path(handle)):
            call('scancel', f'--user={os.getuid()}', f'--name={name}')

    def _revoke(self, handle: str) -> None:
        path = Path(handle)
        if path.exists() and 'revoked' in path.read_text(encoding='utf-8').split():
            return
        job_id = self._job_id(handle)
        if job_id != 'unknown':
            self._note(handle, job_id)  # which the claim will not say any more
        revoke(path, 'slurm')

    def _adopt_by_name(self, handle: str) -> bool:
        alive = [job for job in self._jobs(handle) if not job.ended]
        for job in alive[:1]:
            self._note(handle, job.job_id)
        return bool(alive)

    def _note(self, handle: str, job_id: str) -> None:
        with writing_to(Path(handle).parent):
            write_json(note_file(Path(handle)), {'job_id': job_id, 'cluster': self._queue.cluster})

    def _job_id(self, handle: str) -> str:
        """Return the job that runs the attempt: the one that claimed it, or will."""
        words = Path(handle).read_text().split() if Path(handle).exists() else []
        if len(words) == 4:
            return words[1]
        note = note_file(Path(handle))
        return str(json.loads(note.read_text(encoding='utf-8'))['job_id']) if note.exists() else 'unknown'

    def _options(self, trial_dir: Path, handle: str) -> list[str]:
        s = self._settings
        log = str(trial_dir / LOG_FILE).replace('%', '%%')  # sbatch fills in %j and the like
        options = ['--parsable', '--requeue', f'--nodes={s.nodes}', f'--ntasks={s.nodes}', '--ntasks-per-node=1']
        options += [f'--job-name={attempt_name(Path(handle))}']
        options += [f'--output={log}', '--open-mode=append', f'--chdir={os.getcwd()}']
        requested = {
            'partition': s.partition,
            'account': s.account,
            'cpus-per-task': s.cpus_per_trial and s.cpus_per_trial // s.nodes,
            'time': self._time_min,
            'signal': s.notice_s and f'USR1@{s.notice_s}',
            'gres': f'gpu:{s.gpus_per_trial // s.nodes}' if s.gpus_per_trial else None,
        }
        options += [f'--{key}={value}' for key, value in requested.items() if value is not None]
        return [*options, *s.sbatch_args]

    def _script(self, handle: str) -> str:
        return job_script(
            Path(handle),
            [*self._command, str(Path(handle).parent)],
            cluster=self._queue.cluster,
            nodes=self._settings.nodes,
            processes_per_node=self._settings.processes_per_node,
            setup=self._settings.setup,
            in_step=self._settings.notice_s is not None,
        )


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    job_id: str
    state: str
    reason: str
    name: str

    @property
    def ended(self) -> bool:
        """Whether the job will not run again."""
        return self.state in _ENDED


class SlurmQueue:
    """This user's jobs as squeue showed them last, and those of others that are asked for by their ids.

    Args:
        poll_s (float): :meth:`refresh` asks again after this many seconds at the earliest.
    """

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._next = 0.0
        self._cluster = ''
        self._jobs: dict[str, Job] = {}  # by id
        self._names: dict[str, list[Job]] = {}
        self._sought: set[str] = set()  # ids to ask for the next time
        self._lacking: set[str] = set()
        self.answers = 0  #: how often squeue has answered

    @property
    def cluster(self) -> str:
        """Name of the cluster."""
        if not self._cluster:
            lines = call('scontrol', 'show', 'config').splitlines()
            self._cluster = next(line.split('=')[1].strip() for line in lines if line.startswith('ClusterName'))
        return self._cluster

    def named(self, name: str) -> list[Job]:
        """Return the jobs with this name."""
        return self._names.get(name, [])

    def numbered(self, job_id: str) -> Job | None:
        """Return the job with this id."""
        return self._jobs.get(job_id)

    def lacks(self, job_id: str) -> bool:
        """Return whether squeue, asked for this very job, did not know it; if it was not asked, the next time it is.

        The job may be another user's, in a work dir that several share.
        """
        if not job_id.isdigit():
            return True
        self._sought.add(job_id)
        return job_id in self._lacking or job_id in self._jobs  # as a job of another name

    def refresh(self, *, now: bool = False) -> None:
        """Ask squeue, unless it was asked a moment ago.

        Raises:
            UnavailableError: squeue does not answer.
        """
        if not now and time.monotonic() < self._next:
            return
        self._next = 0.0  # if the question fails, the next one is not put off
        jobs = _ask(f'--user={os.getuid()}')
        if sought := self._sought - jobs.keys():
            jobs |= _ask(f'--jobs={",".join(sorted(sought))}')
        self._jobs, self._lacking, self._sought = jobs, sought - jobs.keys(), set()
        self._names = {}
        for job in jobs.values():
            self._names.setdefault(job.name, []).append(job)
        self.answers += 1
        self._next = time.monotonic() + self._poll_s


def _ask(whose: str) -> dict[str, Job]:
    """Ask squeue for jobs; return them by their ids."""
    try:
        answer = call('squeue', '--noheader', '--all', '--states=all', whose, '--format=%i|%T|%r|%j')
    except UnavailableError as err:
        if 'Invalid job id' in str(err):  # what it says of a job that it does not know
            return {}
        raise
    rows = [line.split('|', 3) for line in answer.split('\n')]
    return {row[0]: Job(*row) for row in rows if len(row) == 4}  # a name of others can hold the end of a line


def call(*command: str, stdin: str | None = None) -> str:
    """Run a command of Slurm and return its output.

    Raises:
        ConfigError: The command is not installed here.
        UnavailableError: The command failed; the message has its last line.
    """
    # A driver that is itself a job must not hand its own job's values on.
    env = {k: v for k, v in os.environ.items() if k == 'SLURM_CONF' or not k.startswith('SLURM_')}
    try:
        done = subprocess.run(
            command, input=stdin, env=env, capture_output=True, text=True, errors='replace', timeout=_CALL_S
        )
    except FileNotFoundError as err:
        raise ConfigError(
            f"search.executor: 'slurm' needs {command[0]}, which is not installed on this machine; start the "
            "search on a login node, or use 'local' or 'manual'"
        ) from err
    except subprocess.TimeoutExpired as err:
        raise UnavailableError(f'{command[0]} has not answered for {_CALL_S:g} s') from err
    if done.returncode:
        raise UnavailableError(f'{command[0]}: {" ".join(done.stderr.split()) or f"status {done.returncode}"}')
    return done.stdout
