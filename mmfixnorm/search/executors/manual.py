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
from mmfixnorm.search.executors.base import Executor, ExecutorSettings, Exit, in_processes
from mmfixnorm.search.executors.claim import check_owner, claim_file, has_result


@dataclass(frozen=True)
class ManualSettings(ExecutorSettings):
    """Commands that the user runs."""

    kind: ClassVar[str] = 'manual'

    def build(self, *, workers: int, command: Sequence[str], timeout_s: float | None) -> ManualExecutor:
        return ManualExecutor(in_processes(command, self.processes))


class ManualExecutor(Executor):
    """Hands out every trial that can run now; a trial has ended when its result is there.

    Whether a command failed cannot be seen from here: the same command again continues from the newest
    checkpoint that can be loaded, as the same attempt.

    Args:
        command (Sequence[str]): The trial's command, to which its folder is appended.
    """

    workers = sys.maxsize
    limits_time = True  # up to the user who runs the commands
    waits = False

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

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
        return shlex.join([*self._command, str(Path(handle).parent)])
