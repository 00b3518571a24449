"""What every executor is: something that runs the trial in a folder, and the settings that name it.

An executor is one file in this package. It knows nothing of rounds, learning rates or the record. The file holds the
settings of ``search.executor`` and the executor that they build; the settings are entered in the table of the package.
"""

from __future__ import annotations

import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmfixnorm.search._utils import checks


class UnavailableError(RuntimeError):
    """What runs the trials does not answer now: nothing is known of them, nothing has failed."""


@dataclass(frozen=True)
class Exit:
    """How an attempt ended.

    Attributes:
        code: Status of its process, negative for a signal; None if it is not known.
        reason: How it ended in the words of what ran it, where there is no ``code``.
    """

    code: int | None
    reason: str = ''

    @property
    def unwatched(self) -> bool:
        """Whether nothing is known of how it ended, so that it is not counted as a failure."""
        return self.code is None and not self.reason

    def __str__(self) -> str:
        if self.code is None:
            return self.reason or 'its process ended while no driver was watching'
        if self.code < 0:
            return f'its process was killed by signal {-self.code} ({signal.Signals(-self.code).name})'
        return f'its process ended with status {self.code}'


class Executor(ABC):
    """Runs the trial in a folder. A handle is a string that means the same to a later driver.

    Every method that asks another program may raise :class:`UnavailableError`; the driver waits.

    Attributes:
        workers: Attempts at a time.
        limits_time: Ends attempts at their time limit by itself, so the driver does not.
        waits: The driver waits for the attempts; otherwise it ends when all are handed out.
    """

    workers: int
    limits_time = False
    waits = True

    def refresh(self) -> None:
        """Take stock of all attempts at once; called once before each round of ``adopt`` and ``poll``."""
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

    def request_end(self, handle: str) -> None:
        """Ask an attempt to end, without waiting; :meth:`cancel` follows, and waits."""
        del handle

    @abstractmethod
    def cancel(self, handle: str) -> None:
        """End the attempt and everything it started; no error if it has ended already."""

    @abstractmethod
    def describe(self, handle: str) -> str:
        """Say where the attempt runs, for people."""


@dataclass(frozen=True)
class ExecutorSettings(ABC):
    """The settings that every executor has.

    Args:
        gpus_per_trial (int): GPUs of a trial. Each gets a process of its own, by
            ``torch.distributed.run``, with the config's batch size, so another number is another
            search.

    Raises:
        ConfigError: A value breaks its rule; the message names the key.
    """

    kind: ClassVar[str]

    gpus_per_trial: int = 1

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=1)

    @property
    def processes(self) -> int:
        """Processes of each trial."""
        return max(1, self.gpus_per_trial)

    @abstractmethod
    def build(self, *, workers: int, command: Sequence[str], timeout_s: float | None) -> Executor:
        """Build the executor.

        Args:
            workers (int): Trials at a time.
            command (Sequence[str]): The trial's command, to which its folder is appended.
            timeout_s (float, optional): Wall-clock limit of an attempt, in seconds.

        Raises:
            ConfigError: This machine cannot do what is asked for.
        """


def lines_of_shell(key: str, value: Any) -> tuple[str, ...]:
    """Check for a list of strings under ``search.executor.<key>``.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise checks.fail(f'executor.{key}', 'a list of strings', value)
    return tuple(value)


def in_processes(command: Sequence[str], number: int) -> list[str]:
    """Return the command in so many processes that train together, on one machine and a free port."""
    if number == 1:
        return list(command)
    return [
        *(sys.executable, '-m', 'torch.distributed.run', '--nnodes=1', f'--nproc-per-node={number}'),
        # Not --standalone: in older torch it means a fixed port, and trials run side by side.
        *('--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', '--local-addr=127.0.0.1'),
        *('--no-python', *command),
    ]
