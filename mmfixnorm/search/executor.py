"""Runs trials as processes. Knows nothing of rounds, learning rates or the record."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.result import LOG_FILE

# The process claims the attempt before it does anything: `set -C` makes the shell create the file
# exclusively. So however a driver was killed around the start of a trial, an attempt runs once.
# The claim says who: number and start time of the process (which `exec` keeps) and its machine.
_CLAIM = (
    'set -C; started=$(cut -d" " -f22 /proc/$$/stat 2>/dev/null || echo unknown); '
    'echo "$$ $started $(uname -n)" > "$0" || exit 75; exec "$@"'
)
_NOT_CLAIMED = 75
_CLAIM_WRITTEN_S = 5.0  # an empty claim older than this is that of a shell that was killed


@dataclass(frozen=True)
class Exit:
    """How a process ended; ``code`` is None if it ended unwatched, negative for a signal."""

    code: int | None

    def __str__(self) -> str:
        if self.code is None:
            return 'its process ended while no driver was watching'
        if self.code < 0:
            return f'its process was killed by signal {-self.code} ({signal.Signals(-self.code).name})'
        return f'its process ended with status {self.code}'


class Executor(Protocol):
    """Runs the trial in a folder. A handle is a string that means the same to a later driver."""

    workers: int

    def submit(self, trial_dir: Path, attempt: int) -> str:
        """Start an attempt and return its handle; an attempt that is claimed is not run again."""

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        """Return the handle of an attempt that an earlier driver started, or None."""

    def poll(self, handle: str) -> Exit | None:
        """Return how the attempt ended, or None while it runs."""

    def cancel(self, handle: str) -> None:
        """End the attempt and everything it started; no error if it has ended already."""


class LocalExecutor:
    """Trials as processes of this machine, each the leader of its own process group.

    Args:
        workers (int): Trials at a time; the cores are shared out among them.
        command (Sequence[str]): The trial's command, to which its folder is appended.
        gpus (Sequence[str]): GPUs to hand out in turn, as in ``CUDA_VISIBLE_DEVICES``; several
            trials share one if there are more workers than GPUs.
        grace_s (float): Time between SIGTERM and SIGKILL, in seconds.
    """

    def __init__(
        self,
        workers: int,
        command: Sequence[str],
        *,
        gpus: Sequence[str] = (),
        grace_s: float = 5.0,
    ) -> None:
        self.workers = workers
        self._command = list(command)
        self._gpus = list(gpus)
        self._grace_s = grace_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._slots: dict[str, int] = {}

    def submit(self, trial_dir: Path, attempt: int) -> str:
        handle = str(_claim_file(trial_dir, attempt))
        taken = set(self._slots.values())
        slot = next(i for i in range(len(taken) + 1) if i not in taken)
        with open(trial_dir / LOG_FILE, 'ab') as log:
            self._children[handle] = subprocess.Popen(
                ['/bin/sh', '-c', _CLAIM, handle, *self._command, str(trial_dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                start_new_session=True,  # Ctrl-C is for the driver, and cancel ends the whole group
            )
        self._slots[handle] = slot
        return handle

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        path = _claim_file(trial_dir, attempt)
        return str(path) if path.exists() else None

    def poll(self, handle: str) -> Exit | None:
        child = self._children.get(handle)
        if child is None:
            return None if _claimed_pid(handle) is not None else self._ended(handle, None)
        code = child.poll()
        if code is None:
            return None
        del self._children[handle]
        if code == _NOT_CLAIMED and not _is_claim_of(handle, child.pid):
            return self.poll(handle)  # a trial of an earlier driver was faster
        _kill_group(child.pid, signal.SIGKILL)  # data loading processes that outlived it
        return self._ended(handle, code)

    def cancel(self, handle: str) -> None:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            child = self._children.get(handle)
            pid = child.pid if child else _claimed_pid(handle)
            if pid is None or self.poll(handle):
                return
            _kill_group(pid, sig)
            give_up = time.monotonic() + self._grace_s
            while time.monotonic() < give_up:
                if self.poll(handle):
                    return
                time.sleep(0.02)

    def _ended(self, handle: str, code: int | None) -> Exit:
        self._slots.pop(handle, None)
        return Exit(code)

    def _environment(self, slot: int) -> dict[str, str]:
        env = dict(os.environ)
        threads = max(1, _cores() // self.workers)
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            env.setdefault(name, str(threads))
        if self._gpus:
            env['CUDA_VISIBLE_DEVICES'] = self._gpus[slot % len(self._gpus)]
        return env


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as entries of ``CUDA_VISIBLE_DEVICES``."""
    import torch  # late: only a search that starts trainings needs it

    count = torch.cuda.device_count()
    listed = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = listed.split(',') if listed else [str(i) for i in range(count)]
    return names[:count]


def _cores() -> int:
    if hasattr(os, 'sched_getaffinity'):  # what this process may use; not there on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _claim_file(trial_dir: Path, attempt: int) -> Path:
    return trial_dir / f'attempt-{attempt}.claim'


def _read_claim(handle: str) -> tuple[int, str, str] | None:
    words = Path(handle).read_text().split() if Path(handle).exists() else []
    return (int(words[0]), words[1], words[2]) if len(words) == 3 else None


def _is_claim_of(handle: str, pid: int) -> bool:
    claim = _read_claim(handle)
    return claim is not None and claim[0] == pid


def _claimed_pid(handle: str) -> int | None:
    """The process that runs the attempt, or None if it has ended."""
    claim = _read_claim(handle)
    if claim is None:
        path = Path(handle)
        if path.exists() and time.time() - path.stat().st_mtime < _CLAIM_WRITTEN_S:
            time.sleep(0.05)
            return _claimed_pid(handle)
        return None
    pid, started, host = claim
    if host != os.uname().nodename:
        raise ConfigError(
            f'{handle}: this attempt was started on {host!r}, this is {os.uname().nodename!r}; '
            'go on there, or delete that file if it has ended'
        )
    return pid if _start_time(pid) == started else None


def _start_time(pid: int) -> str | None:
    """Start time of a living process, in ticks since boot: tells it from one that reuses its number.

    ``'unknown'`` where there is no ``/proc``.
    """
    if not os.path.isdir('/proc/self'):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        return 'unknown'
    try:
        text = Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(')')[2].split()  # the name before it can hold anything
    state, started = fields[0], fields[19]
    return None if state == 'Z' else started


def _kill_group(pid: int, sig: signal.Signals) -> None:
    try:
        os.killpg(pid, sig)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it
