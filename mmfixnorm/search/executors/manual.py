"""Trials that the user starts by hand, for clusters that cannot be driven from here."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import write_text
from mmfixnorm.search.executors.base import Executor, Exit, NodesSettings, in_processes
from mmfixnorm.search.executors.claim import attempt_name, check_owner, claim_file, has_result


@dataclass(frozen=True)
class ManualSettings(NodesSettings):
    """Commands that the user runs.

    Args:
        gpus_per_trial (int): GPUs on all nodes of a trial together.
        nodes_per_trial (int): Nodes of a trial: it has a command for each.
    """

    kind: ClassVar[str] = 'manual'
    limits_trials: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_nodes()

    def build(self, *, workers: int, command: Sequence[str], timeout_s: float | None) -> ManualExecutor:
        return ManualExecutor(in_processes(command, self), nodes=self.nodes)


class ManualExecutor(Executor):
    """Hands out every trial that can run now; a trial has ended when its result is there.

    Whether a command failed cannot be seen from here: the same command again continues from the newest
    checkpoint that can be loaded, as the same attempt.

    Args:
        command (Sequence[str]): The trial's command, to which its folder is appended.
        nodes (int): Nodes of a trial.
    """

    workers = sys.maxsize
    limits_time = True  # up to the user who runs the commands
    waits = False

    def __init__(self, command: Sequence[str], *, nodes: int = 1) -> None:
        self._command = list(command)
        self._nodes = nodes

    def submit(self, trial_dir: Path, attempt: int) -> str:
        path = claim_file(trial_dir, attempt)
        write_text(path, f'manual {os.uname().nodename}\n')
        return str(path)

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        path = claim_file(trial_dir, attempt)
        check_owner(path, 'manual')
        return str(path) if path.exists() else None

    def poll(self, handle: str) -> Exit | None:
        return Exit(0) if has_result(Path(handle)) else None

    def cancel(self, handle: str) -> None:
        """Refuse: where it runs is not known here.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f'{Path(handle).parent}: this trial was started by hand, end it where it runs')

    def describe(self, handle: str) -> str:
        """Return the command of the trial, or those of its nodes, a line each, to be run at the same time.

        ``MASTER_ADDR`` and ``MASTER_PORT`` are for the user to set: the first node, and a port that is free there.
        """
        command = shlex.join([*self._command, str(Path(handle).parent)])
        if self._nodes == 1:
            return command
        meet = (
            'PET_MASTER_ADDR="${MASTER_ADDR:?the first node of the trial}" '
            'PET_MASTER_PORT="${MASTER_PORT:?a port that is free there}" '
            f'PET_RDZV_ID={shlex.quote(attempt_name(Path(handle)))}'
        )
        return '\n'.join(f'{meet} PET_NODE_RANK={rank} {command}' for rank in range(self._nodes))
