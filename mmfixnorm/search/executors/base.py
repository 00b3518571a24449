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
            name = next((f' ({known.name})' for known in signal.Signals if known == -self.code), '')  # none: real-time
            return f'its process was killed by signal {-self.code}{name}'
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

    def held_back(self, handle: str) -> str | None:
        """Say why an attempt waits that may never start by itself; None if it does not, or where that was said."""
        del handle
        return None

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
    #: Whether all trials run on the machine of the driver.
    on_this_machine: ClassVar[bool] = False
    #: Whether ``search.workers`` limits the trials at a time.
    limits_trials: ClassVar[bool] = True

    gpus_per_trial: int = 1

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=1)

    @property
    def nodes(self) -> int:
        """Machines of each trial."""
        return 1

    @property
    def processes(self) -> int:
        """Processes of each trial, on all its machines: one for each GPU, and at least one on each machine."""
        return max(self.nodes, self.gpus_per_trial)

    @property
    def processes_per_node(self) -> int:
        """Processes of each trial on each of its machines."""
        return self.processes // self.nodes

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


@dataclass(frozen=True)
class NodesSettings(ExecutorSettings):
    """The settings of an executor that can run a trial on several machines.

    Args:
        gpus_per_trial (int): GPUs of a trial on all its machines together; each machine has as many.
        nodes_per_trial (int): Machines of a trial.
    """

    nodes_per_trial: int = 1

    @property
    def nodes(self) -> int:
        return self.nodes_per_trial

    def check_nodes(self, *divided: str) -> None:
        """Check ``nodes_per_trial``, and that each machine has the same part of ``gpus_per_trial`` and other keys.

        Args:
            divided (str): More keys whose values are for all machines together.

        Raises:
            ConfigError: A value breaks its rule; the message names the key.
        """
        nodes = checks.integer('executor.nodes_per_trial', self.nodes_per_trial, at_least=1)
        for key in ('gpus_per_trial', *divided):
            value = getattr(self, key)
            if value is not None and value % nodes:
                rule = f'a multiple of nodes_per_trial, {nodes}: it is the number for all nodes of a trial together'
                raise checks.fail(f'executor.{key}', rule, value)


def lines_of_shell(key: str, value: Any) -> tuple[str, ...]:
    """Check for a list of strings under ``search.executor.<key>``.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise checks.fail(f'executor.{key}', 'a list of strings', value)
    return tuple(value)


def in_processes(command: Sequence[str], settings: ExecutorSettings) -> list[str]:
    """Return what starts the processes of a trial, which train together, on one machine.

    On one machine of several, the environment says which: ``PET_NODE_RANK``, and ``PET_MASTER_ADDR`` and
    ``PET_MASTER_PORT`` of the first one, where the processes meet; ``torch.distributed.run`` reads them.
    """
    if settings.processes == 1:
        return list(command)
    launcher = [sys.executable, '-m', 'torch.distributed.run']
    launcher += [f'--nnodes={settings.nodes}', f'--nproc-per-node={settings.processes_per_node}']
    if settings.nodes == 1:
        # Not --standalone: in older torch it means a fixed port, and trials run side by side.
        launcher += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', '--local-addr=127.0.0.1']
    return [*launcher, '--no-python', *command]
