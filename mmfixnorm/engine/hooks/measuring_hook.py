"""The base of hooks that measure in some iterations and log with those alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmengine.hooks import Hook
from mmengine.runner import Runner


class MeasuringHook(Hook):
    """Keeps measurements in the log line of their own iteration.

    The message hub keeps the last value of a scalar, and every line of the log shows it, as if it were measured anew.

    Attributes:
        measured: Names of the scalars, without ``train/``.
    """

    measured: ClassVar[tuple[str, ...]] = ()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        for name in self.measured:
            runner.message_hub.log_scalars.pop(f'train/{name}', None)

    def log_measured(self, runner: Runner, scalars: Mapping[str, float]) -> None:
        """Log scalars with the line of this iteration, if there is one."""
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
