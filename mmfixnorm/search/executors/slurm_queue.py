"""What Slurm says of this user's jobs, and the one way to ask it."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors.local import UnavailableError

_ENDED = frozenset(
    {'BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED'}
    | {'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED', 'REVOKED', 'TIMEOUT'}
)
_CALL_S = 60.0  # a controller that is down lets its clients wait about 10 s


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    job_id: str
    state: str
    reason: str

    @property
    def ended(self) -> bool:
        """Whether it will not run (again)."""
        return self.state in _ENDED


class SlurmQueue:
    """This user's jobs as squeue showed them last.

    Args:
        poll_s (float): :meth:`refresh` asks again after this many seconds at the earliest.
    """

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._next = 0.0
        self._cluster = ''
        self._jobs: dict[str, list[Job]] = {}
        self.looks = 0  #: how often squeue has answered

    @property
    def cluster(self) -> str:
        """Name of the cluster."""
        if not self._cluster:
            lines = call('scontrol', 'show', 'config').splitlines()
            self._cluster = next(line.split('=')[1].strip() for line in lines if line.startswith('ClusterName'))
        return self._cluster

    def named(self, name: str) -> list[Job]:
        """The jobs with this name."""
        return self._jobs.get(name, [])

    def refresh(self, *, now: bool = False) -> None:
        """Ask squeue, unless it was asked a moment ago.

        Raises:
            UnavailableError: It does not answer.
        """
        if not now and time.monotonic() < self._next:
            return
        self._next = 0.0  # if the question fails, the next one is not put off
        wanted = ('--noheader', '--all', '--states=all', f'--user={os.getuid()}', '--format=%i|%T|%r|%j')
        lines = call('squeue', *wanted).splitlines()
        self._jobs = {}
        for line in lines:
            job_id, state, reason, name = line.split('|', 3)
            self._jobs.setdefault(name, []).append(Job(job_id, state, reason))
        self.looks += 1
        self._next = time.monotonic() + self._poll_s


def call(*command: str, stdin: str | None = None) -> str:
    """Run a command of Slurm; return what it prints.

    Raises:
        ConfigError: It is not installed here.
        UnavailableError: It failed; the message has its last line.
    """
    # A driver that is itself a job must not hand its own job's values on.
    env = {k: v for k, v in os.environ.items() if k == 'SLURM_CONF' or not k.startswith('SLURM_')}
    try:
        done = subprocess.run(command, input=stdin, env=env, capture_output=True, text=True, timeout=_CALL_S)
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
