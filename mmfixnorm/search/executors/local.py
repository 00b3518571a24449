"""Trials as processes of this machine."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search.executors.base import Executor, ExecutorSettings, Exit, in_processes
from mmfixnorm.search.executors.claim import (
    CLAIM_SCRIPT,
    NOT_CLAIMED,
    check_owner,
    claim_file,
    claimed_pid,
    read_claim,
)
from mmfixnorm.search.trial.folder import LOG_FILE

# One of these files exists where torch can find a GPU: NVIDIA's driver, its Jetson boards, ROCm, WSL.
_GPU_DEVICES = ('/dev/nvidia*', '/dev/nvhost*', '/dev/nvmap', '/dev/kfd', '/dev/dxg')


@dataclass(frozen=True)
class LocalSettings(ExecutorSettings):
    """Processes of this machine.

    Args:
        trials_per_gpu (int, optional): Trials that share a GPU at most; None means no limit.
    """

    kind: ClassVar[str] = 'local'
    on_this_machine: ClassVar[bool] = True

    trials_per_gpu: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials_per_gpu is not None:
            checks.integer('executor.trials_per_gpu', self.trials_per_gpu, at_least=1)

    def check_places(self, workers: int, gpus: int) -> None:
        """Check that so many workers find a place on so many GPUs; without a GPU all run on the CPU.

        Raises:
            ConfigError: There are too few GPUs, or too few places on them.
        """
        if gpus and gpus < self.gpus_per_trial:
            raise ConfigError(
                f'search.executor.gpus_per_trial: must be at most the number of visible GPUs, {gpus}, '
                f'got {self.gpus_per_trial}'
            )
        places = gpus // self.gpus_per_trial * (self.trials_per_gpu or 0)
        if gpus and self.trials_per_gpu is not None and workers > places:
            raise ConfigError(
                f'search.workers: {gpus} GPUs with trials_per_gpu={self.trials_per_gpu} and '
                f'gpus_per_trial={self.gpus_per_trial} have places for {places} trials, got {workers} workers; '
                'use fewer workers, or raise search.executor.trials_per_gpu'
            )

    def build(self, *, workers: int, command: Sequence[str], timeout_s: float | None) -> LocalExecutor:
        gpus = visible_gpus()
        self.check_places(workers, len(gpus))
        return LocalExecutor(workers, in_processes(command, self), gpus=gpus, gpus_per_trial=self.gpus_per_trial)


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
        if child.returncode is None and os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        # It has ended and is not reaped yet, so its number is still its own, and so is its group's.
        _kill_group(child.pid, signal.SIGKILL)  # data loading processes that outlived it
        code = child.wait()
        del self._children[handle]
        claim = read_claim(Path(handle))
        if code == NOT_CLAIMED and (claim is None or claim.pid != child.pid):
            return self.poll(handle)  # a trial of an earlier driver was faster
        return self._ended(handle, code)

    def request_end(self, handle: str) -> None:
        pid = self._pid(handle)
        if pid is not None and not self.poll(handle):
            _kill_group(pid, signal.SIGTERM)

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
        limits = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
        if not any(name in env for name in limits):  # torch takes MKL's over the user's own limit for OpenMP
            env.update(dict.fromkeys(limits, str(max(1, _cores() // self._processes))))
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
        return  # no process is left in it


def visible_gpus() -> list[str]:
    """List the GPUs that this process may use, as entries of ``CUDA_VISIBLE_DEVICES``."""
    count = _count_gpus()
    listed = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = listed.split(',') if listed else [str(i) for i in range(count)]
    return names[:count]


def _count_gpus() -> int:
    """Ask torch in another process: the driver stays small without torch."""
    if not any(glob.glob(pattern) for pattern in _GPU_DEVICES):
        return 0
    ask = [sys.executable, '-c', 'import torch; print(torch.cuda.device_count())']
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f'search.executor: torch cannot count the GPUs of this machine:\n{done.stderr.strip()}')
    return int(done.stdout.split()[-1])
