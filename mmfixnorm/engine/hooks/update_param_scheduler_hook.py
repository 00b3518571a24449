"""Schedules that count the updates of the weights, where one update is made of several iterations."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import ParamSchedulerHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmfixnorm.config import dicts_in

_OFF = 0.01  # what a schedule may end early or late, as a part of the training, without a word


@HOOKS.register_module()
class UpdateParamSchedulerHook(ParamSchedulerHook):
    """``ParamSchedulerHook`` whose schedules by iteration step once for each update of the weights.

    With ``optim_wrapper.accumulative_counts`` > 1 the stock hook steps them in each iteration: a warm-up that was
    written in iterations of the whole batch is then as many times shorter. Takes its place as
    ``default_hooks.param_scheduler``. Schedules by epoch, also those with ``convert_to_iter_based``, need
    :meth:`count_updates` before they are built.
    """

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Step the schedules by iteration if this iteration has updated the weights."""
        if (runner.iter + 1) % runner.optim_wrapper._accumulative_counts == 0:
            super().after_train_iter(runner, batch_idx, data_batch=data_batch, outputs=outputs)

    @staticmethod
    def count_updates(runner: Runner) -> None:
        """Let schedules by epoch that are converted count updates; to be called before ``runner.train()``.

        An epoch has a whole number of updates for them: where ``accumulative_counts`` does not divide its iterations,
        the nearest, and the log says by how much they end early or late.
        """
        iterations, counts = len(runner.train_dataloader), runner.optim_wrapper._accumulative_counts
        converted = [s for s in dicts_in(runner.param_schedulers) if s.get('convert_to_iter_based')]
        updates = max(1, round(iterations / counts))
        for schedule in converted:
            schedule.setdefault('epoch_length', updates)
        ends_at = updates * counts / iterations
        if converted and abs(ends_at - 1) > _OFF:
            print_log(
                f'optim_wrapper.accumulative_counts = {counts} does not divide the {iterations} iterations of an '
                f'epoch: schedules by epoch count {updates} updates in it, and there are {iterations / counts:g}. What '
                f'they do at epoch 10 happens at epoch {10 * ends_at:.3g}; another batch_size may help',
                logger='current',
                level=logging.WARNING,
            )
