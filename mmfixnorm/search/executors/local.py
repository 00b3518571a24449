"""What runs trials, and trials as processes of this machine.

An executor knows nothing of rounds, learning rates or the record. The others are in
:mod:`.executor_slurm` and :mod:`.executor_manual`; :mod:`.executor_build` picks one by the settings.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfixnorm.search.executors.claim import (
    CLAIM_SCRIPT,
    NOT_CLAIMED,
    check_owner,
    claim_file,
    claimed_pid,
    read_claim,
)
from mmfixnorm.search.trial.folder import LOG_FILE


class UnavailableError(RuntimeError):
    """What runs the trials does not answer now: nothing is known of them, nothing has failed."""


@dataclass(frozen=True)
class Exit:
    """How an attempt ended.

    Attributes:
        code: Status of its process, negative for a signal; None if that is not known.
        reason: How it ended in the words of what ran it, where there is no ``code``.
    """

    code: int | None
    reason: str = ''

    @property
    def unwatched(self) -> bool:
        """Nobody can say how it ended, so it is not counted as a failure."""
        return self.code is None and not self.reason

    def __str__(self) -> str:
        if self.code is None:
            return self.reason or 'its process ended while no driver was watching'
        if self.code < 0:
            return f'its process was killed by signal {-self.code} ({signal.Signals(-self.code).name})'
        return f'its process ended with status {self.code}'


class Executor(ABC):
    """Runs the trial in a folder. A handle is a string that means the same to a later driver.

    Every method that asks somebody else may raise :class:`UnavailableError`; the driver waits.

    Attributes:
        workers: Attempts at a time.
        limits_time: Ends attempts at their time limit by itself, so the driver does not.
        waits: The driver waits for the attempts; otherwise it ends when all are handed out.
    """

    workers: int
    limits_time = False
    waits = True

    def refresh(self) -> None:
        """Look at all attempts at once; called once before each round of ``adopt`` and ``poll``."""
        return

    @abstractmethod
    def submit(self, trial_dir: Path, attempt: int) -> str:
        """Start an attempt and return its handle; an attempt that is claimed is not run again."""

    @abstractmethod
    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        """Return the handle of an attempt that an earlier driver started, or None.

        Raises:
            ConfigError: Another kind of executor started it.
        """

    @abstractmethod
    def poll(self, handle: str) -> Exit | None:
        """Return how the attempt ended, or None while it runs."""

    @abstractmethod
    def cancel(self, handle: str) -> None:
        """End the attempt and everything it started; no error if it has ended already."""

    @abstractmethod
    def describe(self, handle: str) -> str:
        """Say where the attempt runs, for people."""


class LocalExecutor(Executor):
    """Trials as processes of this machine, each the leader of its own process group.

    Args:
        workers (int): Trials at a time; the cores are shared out among them.
        command (Sequence[str]): The trial's command, to which its folder is appended.
        gpus (Sequence[str]): GPUs to hand out in turn, as in ``CUDA_VISIBLE_DEVICES``; several
            trials share one if there are more workers than places.
        gpus_per_trial (int): GPUs that each trial sees; also the processes that it consists of,
            among which its cores are shared out.
        grace_s (float): Time between SIGTERM and SIGKILL, in seconds.
    """

    def __init__(
        self,
        workers: int,
        command: Sequence[str],
        *,
        gpus: Sequence[str] = (),
        gpus_per_trial: int = 1,
        grace_s: float = 5.0,
    ) -> None:
        self.workers = workers
        self._command = list(command)
        whole = range(0, len(gpus) - gpus_per_trial + 1, gpus_per_trial)
        self._places = [','.join(gpus[i : i + gpus_per_trial]) for i in whole]
        self._processes = workers * gpus_per_trial
        self._grace_s = grace_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._slots: dict[str, int] = {}

    def submit(self, trial_dir: Path, attempt: int) -> str:
        handle = str(claim_file(trial_dir, attempt))
        taken = set(self._slots.values())
        slot = next(i for i in range(len(taken) + 1) if i not in taken)
        with open(trial_dir / LOG_FILE, 'ab') as log:
            self._children[handle] = subprocess.Popen(
                ['/bin/sh', '-c', CLAIM_SCRIPT, handle, str(slot), *self._command, str(trial_dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                start_new_session=True,  # Ctrl-C is for the driver, and cancel ends the whole group
            )
        self._slots[handle] = slot
        return handle

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        path = claim_file(trial_dir, attempt)
        check_owner(path, 'local')
        if not path.exists():
            return None
        claim = read_claim(path)
        if claim is not None and claim.slot is not None:
            self._slots[str(path)] = claim.slot  # its GPUs are not free
        return str(path)

    def poll(self, handle: str) -> Exit | None:
        child = self._children.get(handle)
        if child is None:
            return None if claimed_pid(Path(handle)) is not None else self._ended(handle, None)
        code = child.poll()
        if code is None:
            return None
        del self._children[handle]
        claim = read_claim(Path(handle))
        if code == NOT_CLAIMED and (claim is None or claim.pid != child.pid):
            return self.poll(handle)  # a trial of an earlier driver was faster
        _kill_group(child.pid, signal.SIGKILL)  # data loading processes that outlived it
        return self._ended(handle, code)

    def cancel(self, handle: str) -> None:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            pid = self._pid(handle)
            if pid is None or self.poll(handle):
                return
            _kill_group(pid, sig)
            give_up = time.monotonic() + self._grace_s
            while time.monotonic() < give_up:
                if self.poll(handle):
                    return
                time.sleep(0.02)

    def describe(self, handle: str) -> str:
        return f'process {self._pid(handle)}'

    def _pid(self, handle: str) -> int | None:
        child = self._children.get(handle)
        return child.pid if child else claimed_pid(Path(handle))

    def _ended(self, handle: str, code: int | None) -> Exit:
        self._slots.pop(handle, None)
        return Exit(code)

    def _environment(self, slot: int) -> dict[str, str]:
        env = dict(os.environ)
        threads = max(1, _cores() // self._processes)
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            env.setdefault(name, str(threads))
        if self._places:
            env['CUDA_VISIBLE_DEVICES'] = self._places[slot % len(self._places)]
        return env


def _cores() -> int:
    if hasattr(os, 'sched_getaffinity'):  # what this process may use; not there on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kill_group(pid: int, sig: signal.Signals) -> None:
    try:
        os.killpg(pid, sig)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it
