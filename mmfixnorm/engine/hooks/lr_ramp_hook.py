"""A ramp of the learning rate through the first iterations of a training, for :mod:`mmfixnorm.lr_range`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfixnorm.core.angles import StepMeter
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.engine.hooks.fix_norm_hook import norm_fixers_of, optimizer_of, unwrapped_model
from mmfixnorm.errors import ConfigError

__all__ = ['LRRampHook', 'RampEndedError', 'RampStep']


class RampStep(NamedTuple):
    """One step of a ramp: its learning rate and loss, and its angles in radians; None where the loss is not finite.

    Attributes:
        angle: Of all weights as one vector.
        largest: Of the weight that the step turned most.
    """

    lr: float
    loss: float
    angle: float | None
    largest: float | None


class RampEndedError(Exception):
    """The ramp has all that it needs; ends the training."""


class LRRampHook(Hook):
    """Raises the learning rate from step to step, and ends the training with :class:`RampEndedError`.

    Other parameter groups keep their ratio to it. It begins far below what the weights notice and doubles until a step
    turns them by ``visible_angle``; from there it rises by ``factor``. A ramp ends when ``is_over(steps)``, when the
    loss is no longer finite, or after ``max_iters`` steps, each of as many iterations as gradients are accumulated. An
    iteration without a step, which a loss scaler skips for example, raises nothing. Changes nothing but the learning
    rate.

    Args:
        lr (float): The learning rate of the config.
        is_over (Callable): Gets the steps so far.
        max_iters (int): Steps at most.
        factor (float): Of the learning rates of two steps.
        visible_angle (float): In radians, all weights of the set as one vector.

    Attributes:
        steps: What was measured.
        iterations: Iterations so far.
    """

    priority = 'LOWEST'  # after hooks and schedulers that set the learning rate

    def __init__(
        self, lr: float, is_over: Any, max_iters: int = 100, factor: float = 1.15, visible_angle: float = 1e-3
    ) -> None:
        self._base = lr
        self._lr = lr * 1e-4
        self._is_over = is_over
        self._max_iters = max_iters
        self._factor = factor
        self._visible_angle = visible_angle
        self._is_visible = False
        self._meter = StepMeter()
        self.steps: list[RampStep] = []
        self.iterations = 0

    def before_train(self, runner: Runner) -> None:
        """Note the learning rate of each parameter group as built."""
        optimizer = optimizer_of(runner)
        for group in optimizer.param_groups:
            group.setdefault('initial_lr', group['lr'])
        built = sorted({float(group['initial_lr']) for group in optimizer.param_groups})
        if not any(math.isclose(lr, self._base, rel_tol=1e-6) for lr in built):
            raise ConfigError(
                f'search.lr_key: the config has lr {self._base:g}, but the built optimizer has {built}; something else '
                'sets it (auto_scale_lr? lr_mult for every parameter?)'
            )
        model = unwrapped_model(runner)
        self._weights = flagged(optimizer) or list(dict(norm_fixing_parameters(model, fc=True)).values())
        if not self._weights:
            raise ConfigError('lr_range: the model has no trainable conv or FC weight whose angle could be measured')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the learning rate of this iteration."""
        optimizer = optimizer_of(runner)
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * (self._lr / self._base)
        self._meter.install(optimizer, [norm_fixer for norm_fixer, _ in norm_fixers_of(runner)])
        self._meter.arm(self._weights)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Take the loss and the angle of the step, and go on to the next learning rate."""
        everywhere = torch.as_tensor((outputs or {}).get('loss', math.nan)).detach().float().clone()
        all_reduce(everywhere, 'mean')  # all processes end, or none
        measured = self._meter.read()
        loss = float(everywhere)
        angle, largest = (None, None) if measured is None else (measured.joint, measured.layers[measured.largest])
        self.iterations += 1
        if angle is not None or not math.isfinite(loss):
            self.steps.append(RampStep(self._lr, loss, angle, largest))
        at_most = self._max_iters * getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if not math.isfinite(loss) or self.iterations >= at_most or self._is_over(self.steps):
            raise RampEndedError
        if angle is not None:
            self._is_visible |= angle >= self._visible_angle
            self._lr *= self._factor if self._is_visible else 2.0
