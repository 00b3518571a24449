"""Trials forked from a process that has imported the toolbox: it takes longer than a small training."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmfixnorm.search.executors.base import Exit
from mmfixnorm.search.executors.claim import claim_file
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.trial.folder import LOG_FILE

PRELOADED = ['mmfixnorm.search.trial.__main__', 'mmfixnorm.cls', 'mmpretrain.datasets', 'mmpretrain.evaluation']


class WarmExecutor(LocalExecutor):
    """Trials of one thread on this machine's CPU, without their start-up; a driver that is killed takes them along.

    Args:
        workers (int): Trials at a time.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, [])
        self._context = multiprocessing.get_context('forkserver')
        self._context.set_forkserver_preload(PRELOADED)
        self._processes_of: dict[str, BaseProcess] = {}

    def submit(self, trial_dir: Path, attempt: int) -> str:
        handle = str(claim_file(trial_dir, attempt))
        process = self._context.Process(target=_run, args=(handle, str(trial_dir)), daemon=True)
        process.start()
        self._processes_of[handle] = process
        return handle

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        path = claim_file(trial_dir, attempt)
        return str(path) if path.exists() else None

    def poll(self, handle: str) -> Exit | None:
        process = self._processes_of.get(handle)
        if process is None:
            return Exit(None)  # of a driver that is gone
        return None if process.exitcode is None else Exit(process.exitcode)

    def cancel(self, handle: str) -> None:
        process = self._processes_of.get(handle)
        if process is not None:
            process.kill()
            process.join()

    def describe(self, handle: str) -> str:
        process = self._processes_of.get(handle)
        return f'process {process.pid if process else None}'


def _run(handle: str, trial_dir: str) -> None:
    import torch

    from mmfixnorm.search.trial.__main__ import main

    torch.set_num_threads(1)  # two threads on a core that is shared wait for each other

    Path(handle).touch(exist_ok=False)
    with open(os.path.join(trial_dir, LOG_FILE), 'ab') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(main([trial_dir]))
