"""Trials as Slurm jobs, by sbatch, squeue, scancel and scontrol.

Not by submitit: without accounting it reports every job as UNKNOWN and never notices one that was
killed, and a trial is a command with a folder, so there is no Python function to pickle. squeue knows
the state of a job while it is there and for ``MinJobAge`` seconds after its end (300 by default), with
and without accounting, and answers for all jobs at once.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import write_json
from mmfixnorm.search.executors.claim import (
    NOT_CLAIMED,
    WATCH_SCRIPT,
    attempt_name,
    check_owner,
    claim_file,
    has_result,
    note_file,
)
from mmfixnorm.search.executors.local import Executor, Exit, UnavailableError
from mmfixnorm.search.executors.settings import SlurmSettings
from mmfixnorm.search.executors.slurm_queue import SlurmQueue, call
from mmfixnorm.search.trial.folder import LOG_FILE

# What sbatch says when it is Slurm's fault; everything else is a refusal.
_TRANSIENT = ('timed out', 'contact slurm controller', 'temporarily', 'has not answered')
_CANCEL_S = 120.0  # Slurm gives a job 30 s (KillWait) between SIGTERM and SIGKILL

# The job claims the attempt, see executor_claim. One that Slurm has requeued takes over its own claim.
_SCRIPT = """#!/bin/bash
claim={claim}
job="slurm $SLURM_JOB_ID {cluster}"
mine="$job ${{SLURM_RESTART_COUNT:-0}}"
if ! (set -C; echo "$mine" > "$claim") 2>/dev/null; then
  case "$(cat "$claim")" in
    "$job "*)
      echo "$mine" > "$claim.new" && mv "$claim.new" "$claim" || exit
      sleep 5 ;;  # its process of before may go on, on a node that Slurm has lost: the watch there ends it
    *)
      echo "job $SLURM_JOB_ID: $claim is there, another process runs this attempt"
      exit {not_claimed} ;;
  esac
fi
{watch}
threads=$((${{SLURM_CPUS_ON_NODE:-1}} / {processes}))
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}}"
{setup}
exec {command}
"""


class SlurmExecutor(Executor):
    """One job per trial, adopted by its id; several drivers' worth of jobs never mix, by their names.

    A job that has ended in whatever way without a result is a failed attempt; one that Slurm
    requeues (preemption, a lost node, ``scontrol requeue``) goes on in the same attempt, from the
    newest checkpoint that can be loaded. While Slurm does not answer, nothing is concluded.

    A controller that forgets a job which it has just accepted (killed before it saved its state)
    is not noticed: the attempt is tried again while its process may still run.

    Args:
        workers (int): Jobs at a time, waiting ones included.
        command (Sequence[str]): The trial's command, to which its folder is appended.
        settings (SlurmSettings): What to ask of Slurm.
        time_min (int, optional): Wall-clock limit of a job, in minutes.
        result_s (float): How long to wait for the result of a job that succeeded, or for the end of
            one whose result is there, in seconds; NFS shows new files after 60 s, by default.
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
        self.workers = workers
        self._command = list(command)
        self._settings = settings
        self._time_min = time_min
        self._queue = SlurmQueue(settings.poll_s)
        self._result_s = result_s
        self._disagree: dict[str, float] = {}  # handle -> when that was seen first
        self._submitted: dict[str, int] = {}  # handle -> looks at the queue before

    def refresh(self) -> None:
        self._queue.refresh()

    def submit(self, trial_dir: Path, attempt: int) -> str:
        handle = str(claim_file(trial_dir, attempt))
        try:
            answer = call('sbatch', *self._options(trial_dir, handle), stdin=self._script(handle))
        except UnavailableError as err:
            self._queue.refresh(now=True)  # it answers: then sbatch was refused, and raises if not
            if self._adopt_by_name(handle):
                return handle
            if any(words in str(err) for words in _TRANSIENT):
                raise
            raise ConfigError(f'search.executor: {err}') from err
        self._submitted[handle] = self._queue.looks
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
                    'go on there, or delete that file if it has ended'
                )
            return str(path)
        # A driver that was killed between sbatch and its note leaves a job, or its claim.
        return str(path) if path.exists() or self._adopt_by_name(str(path)) else None

    def poll(self, handle: str) -> Exit | None:
        jobs = self._queue.named(attempt_name(Path(handle)))
        if self._submitted.get(handle) == self._queue.looks:
            return None
        result = has_result(Path(handle))
        if any(not job.ended for job in jobs):
            if not result or not self._has_waited(handle):
                return None
            # A controller that was away while the job ended may hold on to it, or start it again.
            self._scancel(handle)
            return Exit(0)
        mine = self._job_id(handle)
        for job in jobs:
            if job.job_id == mine:
                if job.state == 'COMPLETED' and not result and not self._has_waited(handle):
                    return None  # other machines may see a new file late
                return Exit(None, f'its Slurm job {mine} ended as {job.state} ({job.reason})')
        return Exit(None, f'its Slurm job {mine} is not in the queue any more (squeue)')

    def cancel(self, handle: str) -> None:
        name = attempt_name(Path(handle))
        self._scancel(handle)
        give_up = time.monotonic() + _CANCEL_S
        while time.monotonic() < give_up:
            self._queue.refresh(now=True)
            if all(job.ended for job in self._queue.named(name)):
                return
            time.sleep(min(1.0, self._settings.poll_s))
        raise UnavailableError(f'{self.describe(handle)} is still there {_CANCEL_S:g} s after scancel')

    def describe(self, handle: str) -> str:
        return f'Slurm job {self._job_id(handle)}'

    def _has_waited(self, handle: str) -> bool:
        """Whether Slurm and the folder have said different things for long enough."""
        since = self._disagree.setdefault(handle, time.monotonic())
        return time.monotonic() - since > self._result_s

    def _scancel(self, handle: str) -> None:
        call('scancel', f'--user={os.getuid()}', f'--name={attempt_name(Path(handle))}')

    def _adopt_by_name(self, handle: str) -> bool:
        alive = [job for job in self._queue.named(attempt_name(Path(handle))) if not job.ended]
        for job in alive[:1]:
            self._note(handle, job.job_id)
        return bool(alive)

    def _note(self, handle: str, job_id: str) -> None:
        write_json(note_file(Path(handle)), {'job_id': job_id, 'cluster': self._queue.cluster})

    def _job_id(self, handle: str) -> str:
        """The job that runs the attempt: the one that claimed it, or will."""
        words = Path(handle).read_text().split() if Path(handle).exists() else []
        if len(words) == 4:
            return words[1]
        note = note_file(Path(handle))
        return str(json.loads(note.read_text(encoding='utf-8'))['job_id']) if note.exists() else 'unknown'

    def _options(self, trial_dir: Path, handle: str) -> list[str]:
        s = self._settings
        log = str(trial_dir / LOG_FILE).replace('%', '%%')  # sbatch fills in %j and the like
        options = ['--parsable', '--requeue', '--nodes=1', '--ntasks=1', f'--job-name={attempt_name(Path(handle))}']
        options += [f'--output={log}', '--open-mode=append', f'--chdir={os.getcwd()}']
        wanted = {
            'partition': s.partition,
            'account': s.account,
            'cpus-per-task': s.cpus_per_trial,
            'time': self._time_min,
            'gres': f'gpu:{s.gpus_per_trial}' if s.gpus_per_trial else None,
        }
        options += [f'--{key}={value}' for key, value in wanted.items() if value is not None]
        return [*options, *s.sbatch_args]

    def _script(self, handle: str) -> str:
        return _SCRIPT.format(
            claim=shlex.quote(handle),
            cluster=self._queue.cluster,
            not_claimed=NOT_CLAIMED,
            watch=WATCH_SCRIPT,
            processes=self._settings.processes,
            setup='\n'.join(self._settings.setup),
            command=shlex.join([*self._command, str(Path(handle).parent)]),
        )
