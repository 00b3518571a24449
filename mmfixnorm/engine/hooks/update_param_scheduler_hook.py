"""Schedules that count the updates of the weights, where one update is made of several iterations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import ParamSchedulerHook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmfixnorm.config import dicts_in
from mmfixnorm.errors import ConfigError

_OFF = 0.01  # what a schedule may end early or late, as a part of the training, without a word


@HOOKS.register_module()
class UpdateParamSchedulerHook(ParamSchedulerHook):
    """``ParamSchedulerHook`` whose schedules by iteration step once for each update of the weights.

    With ``optim_wrapper.accumulative_counts`` > 1 the stock hook steps them in each iteration: a warm-up that was
    written in iterations of the whole batch is then as many times shorter. Takes its place as
    ``default_hooks.param_scheduler``. Schedules by epoch with ``convert_to_iter_based``, and those without an ``end``,
    need :meth:`count_updates` before they are built.

    Args:
        interval (int, optional): Iterations to one step, where that is another number than ``accumulative_counts``:
            half of it for schedules that were written for an update of two iterations.

    Raises:
        ConfigError: If ``interval`` is no integer >= 1; from :meth:`interval_of`, if it is not given and there are
            several optimizers.
    """

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and (isinstance(interval, bool) or not isinstance(interval, int) or interval < 1):
            raise ConfigError(f'default_hooks.param_scheduler.interval must be an integer >= 1, got {interval!r}')
        self.interval = interval

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Step the schedules by iteration if this iteration has updated the weights."""
        if (runner.iter + 1) % self.interval_of(runner) == 0:
            super().after_train_iter(runner, batch_idx, data_batch=data_batch, outputs=outputs)

    def interval_of(self, runner: Runner) -> int:
        """Return the iterations to one step of the schedules."""
        wrapper = runner.optim_wrapper
        if self.interval is not None:
            return self.interval
        if isinstance(wrapper, OptimWrapperDict):
            raise ConfigError(
                'default_hooks.param_scheduler: an optim_wrapper of several optimizers has no one accumulative_counts; '
                'set interval of UpdateParamSchedulerHook to the iterations to one step of the schedules'
            )
        if isinstance(wrapper, Mapping):  # not built yet, as in a FlexibleRunner
            return int(wrapper.get('accumulative_counts', 1))
        return int(wrapper._accumulative_counts)

    def count_updates(self, runner: Runner) -> None:
        """Let schedules count updates; to be called before ``runner.train()``.

        Those by iteration end with the training unless they say when. Those by epoch that are converted have a whole
        number of updates in an epoch: where the interval does not divide its iterations, the nearest, and the log says
        by how much they end early or late.
        """
        iterations, interval = len(runner.train_dataloader), self.interval_of(runner)
        schedules = [*dicts_in(runner.param_schedulers)]
        for schedule in schedules:
            if not schedule.get('by_epoch', True):
                schedule.setdefault('end', max(1, runner.max_iters // interval))
        converted = [s for s in schedules if s.get('convert_to_iter_based')]
        updates = max(1, round(iterations / interval))
        for schedule in converted:
            schedule.setdefault('epoch_length', updates)
        ends_at = updates * interval / iterations
        if converted and abs(ends_at - 1) > _OFF:
            print_log(
                f'optim_wrapper.accumulative_counts: an update of {interval} iterations does not divide the '
                f'{iterations} of an epoch: schedules by epoch count {updates} updates in it, and there are '
                f'{iterations / interval:g}. What they do at epoch 10 happens at epoch {10 * ends_at:.3g}; another '
                'batch_size may help',
                logger='current',
                level=logging.WARNING,
            )
