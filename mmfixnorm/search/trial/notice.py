"""Notice that a training's machine is about to be taken away: a checkpoint, in the middle of an epoch if need be.

Where a cluster sends a signal some time before it ends a job, ``MMFIXNORM_NOTICE`` has the names of the signals. The
training then writes a checkpoint at the next moment at which all its processes look, and ends; what started it returns
it to the queue.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmfixnorm.search.trial.folder import NOTICE_VARIABLE

_CHECKPOINTS = 'notice_*.pth'


class SavedForLaterError(Exception):
    """The training was told to end, and continues later from the checkpoint that it has just written."""


class Notice:
    """Whether this process was told that it is about to be ended.

    Args:
        names (str): Signals that say so, such as ``'TERM USR1'``; from now on they do nothing else.
    """

    def __init__(self, names: str) -> None:
        self.is_given = False
        for name in names.split():
            signal.signal(signal.Signals[f'SIG{name}'], self._take)

    @classmethod
    def of_environment(cls) -> Notice:
        """Listen to the signals that the environment names; to none where it names none."""
        return cls(os.environ.get(NOTICE_VARIABLE, ''))

    def _take(self, number: int, frame: Any) -> None:
        del number, frame
        self.is_given = True


def save_for_later(runner: Runner, saved: Path) -> None:
    """Write a checkpoint of the iteration that has just ended and a file that says so, and end the training.

    Args:
        runner (Runner): In ``after_train_iter``; every process must call this in the same iteration.
        saved (Path): The file, which is written after the checkpoint.

    Raises:
        SavedForLaterError: Always.
    """
    done = runner.iter + 1
    runner.save_checkpoint(runner.work_dir, f'notice_{done}.pth', by_epoch=False)
    if is_main_process():
        print_log(f'told to end: the checkpoint of iteration {done} is written', logger='current')
        saved.touch()
    barrier()  # the launcher ends all processes with the first
    raise SavedForLaterError(f'saved after iteration {done}')


def skip_what_is_done(runner: Runner) -> None:
    """Have the next epoch begin after the batches with which a checkpoint in its middle was trained.

    They are loaded and left out, as mmengine does in a training by iterations, so all that the loading draws at random
    is the same. To be called when the checkpoint is loaded.
    """
    loop = runner.train_loop
    if not isinstance(loop, EpochBasedTrainLoop):
        return
    done = runner.iter - runner.epoch * len(loop.dataloader)
    if done > 0:
        print_log(f'continues in the middle of an epoch: {done} of its batches are done', logger='current')
        loop.dataloader = _Rest(loop.dataloader, done)


def delete_notices(run_dir: Path) -> None:
    """Delete the checkpoints that notices have left, once the training is over."""
    if is_main_process():
        for path in run_dir.glob(_CHECKPOINTS):
            path.unlink(missing_ok=True)


class _Rest:
    """A data loader whose first epoch lacks its first batches; otherwise as the one it is made of."""

    def __init__(self, loader: Any, done: int) -> None:
        self._loader = loader
        self._done = done

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        for _ in range(self._done):
            next(batches)
        self._done = 0
        yield from batches

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
