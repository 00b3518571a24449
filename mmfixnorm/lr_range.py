"""The learning rates worth a search, from one short ramp: ``search.lr_range='auto'`` and ``mmfixnorm lr-range``.

The learning rate rises from iteration to iteration, in a training of its own, until steps turn all weights by 0.05 rad,
or one layer by 0.2 rad, or the loss explodes. The best learning rate of a whole training lies near that point, by a
factor that depends on the task much less than the learning rate does; ``docs/tuning.md`` has the measurements.

Source: the ramp is the range test of Smith, "Cyclical learning rates for training neural networks", 2017
(`arXiv:1506.01186 <https://arxiv.org/abs/1506.01186>`_); the angle is that of :mod:`mmfixnorm.core.angles`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeGuard

from mmengine.config import Config

from mmfixnorm.config import training_length
from mmfixnorm.engine.hooks.lr_ramp_hook import LRRampHook, RampEndedError, RampStep
from mmfixnorm.launch import build_runner, build_training, train

__all__ = ['LRRamp', 'measure_lr_range', 'ramp_end']

MAX_ITERS = 100
#: Where the ramp ends, in radians: the angle of a step of all weights as one vector, or of the layer that turns most.
END_ANGLE, END_LAYER_ANGLE = 0.05, 0.2
#: The range, in units of the learning rate at the end of the ramp.
RANGE_OF_THE_END = (0.15, 1.2)
_WINDOW = 5  # iterations whose median is taken
_EXPLODED = 1.5  # times the lowest median so far
_STILL = 10  # iterations at the beginning, at next to no learning rate: their losses differ by the batch alone
_ENDLESS = 10**6


@dataclass(frozen=True)
class LRRamp:
    """What a ramp has measured.

    Attributes:
        lr_range: The learning rates worth a search; None if the ramp did not come to its end.
        end: The learning rate at the end of the ramp; None if it did not come to it.
        steps: ``[lr, loss, angle, largest]`` of each step, see :class:`~mmfixnorm.engine.hooks.lr_ramp_hook.RampStep`;
            None in place of what is not finite.
        iterations: Iterations that it took.
        part: These over the iterations of the whole training.
    """

    lr_range: tuple[float, float] | None
    end: float | None
    steps: list[list[float | None]]
    iterations: int
    part: float

    def __str__(self) -> str:
        after = f'after {self.iterations} iterations, {self.part:.3g} T_max'
        if self.end is None or self.lr_range is None:
            reached = f'the last lr was {self.steps[-1][0]:.3g}' if self.steps else 'no step was taken'
            return f'the ramp of the learning rate came to no end {after}: {reached}'
        low, high = self.lr_range
        return f'steps are too large from lr {self.end:.3g} on, so lr {low:g} to {high:g} is worth a search ({after})'

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as in ``result.json``."""
        return asdict(self)


def measure_lr_range(cfg: Config, lr: float, *, max_iters: int = MAX_ITERS) -> LRRamp:
    """Raise the learning rate of a training until its steps are too large.

    Everything is built from a copy of the config, in a Runner of its own: nothing of a training is changed. The first
    ``max_iters`` steps are taken; no checkpoint is written and nothing is validated.

    Args:
        cfg (Config): What to train, with ``work_dir`` and ``launcher``.
        lr (float): Its learning rate; other parameter groups keep their ratio to it.
        max_iters (int): Steps at most.

    Raises:
        ConfigError: The config cannot be trained.
    """
    cfg = copy.deepcopy(cfg)
    length, unit = training_length(cfg)
    cfg.train_cfg[f'max_{unit}'] = _ENDLESS
    cfg.train_cfg.val_interval = cfg.train_cfg.val_begin = _ENDLESS
    cfg.train_cfg.pop('dynamic_intervals', None)
    cfg.param_scheduler = []
    cfg.resume = False
    cfg.setdefault('default_hooks', {})['checkpoint'] = None
    runner = build_runner(cfg)
    build_training(runner)
    hook = LRRampHook(lr, lambda steps: ramp_end(steps) is not None, max_iters)
    runner.register_hook(hook)
    with suppress(RampEndedError):
        train(runner)
    end = ramp_end(hook.steps)
    found = None if end is None else (_rounded(end * RANGE_OF_THE_END[0]), _rounded(end * RANGE_OF_THE_END[1]))
    total = length * (len(runner.train_dataloader) if unit == 'epochs' else 1)
    steps = [[number if _is_finite(number) else None for number in step] for step in hook.steps]
    return LRRamp(found, end, steps, hook.iterations, hook.iterations / total)


def ramp_end(steps: Sequence[RampStep]) -> float | None:
    """Return the learning rate at which a ramp ends; None if it has not yet.

    Where the steps turn all weights by :data:`END_ANGLE`, or one layer by :data:`END_LAYER_ANGLE`, as the median of
    five; or, if that is earlier, where the loss explodes: the median of five is half as high again as the lowest
    before, and above it by more than the first ten losses, at next to no learning rate, differ; or a loss is not
    finite.

    Args:
        steps (Sequence[RampStep]): The ramp, or its beginning.
    """
    losses = [step.loss if math.isfinite(step.loss) else math.inf for step in steps]
    noise = max(losses[:_STILL], default=0.0) - min(losses[:_STILL], default=0.0)
    lowest = math.inf
    for i, step in enumerate(steps):
        if math.isinf(losses[i]):
            return step.lr
        if i + 1 < _WINDOW:
            continue
        window = range(i + 1 - _WINDOW, i + 1)
        turned = _median(steps[k].angle for k in window) > END_ANGLE
        turned |= _median(steps[k].largest for k in window) > END_LAYER_ANGLE
        loss = median(losses[k] for k in window)
        exploded = i >= _STILL and loss - lowest > max((_EXPLODED - 1) * abs(lowest), noise)
        if turned or exploded:
            return steps[i - _WINDOW // 2].lr
        lowest = min(lowest, loss)
    return None


def _median(angles: Iterable[float | None]) -> float:
    return median([angle for angle in angles if _is_finite(angle)] or [0.0])


def _is_finite(number: float | None) -> TypeGuard[float]:
    return number is not None and math.isfinite(number)


def _rounded(value: float) -> float:
    return float(f'{value:.3g}')
