"""Logs of weight norms and of the effective learning rate."""

from __future__ import annotations

import torch
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import SGD

from mmfixnorm.config import HOOK_NAMES
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.core.norms import global_norm
from mmfixnorm.core.rotation import AngleNormFixer
from mmfixnorm.engine.hooks.fix_norm_hook import norm_fixers_of, optimizer_of, unwrapped_model
from mmfixnorm.engine.hooks.measuring_hook import MeasuringHook
from mmfixnorm.errors import ConfigError


@HOOKS.register_module(name=HOOK_NAMES['WeightNormLoggerHook'])
class WeightNormLoggerHook(MeasuringHook):
    """Logs the norm of the norm-fixing set, of each of its tensors, and the effective learning rate.

    Every ``interval`` iterations and at the end of an epoch, after the step and before LoggerHook:
    ``train/weight_norm`` (the whole set as one vector) and ``train/effective_lr`` (``lr / ||W||^2``, eq. 4) appear in
    the log line of this iteration, if there is one, and in no other; so set ``interval`` to a multiple of LoggerHook's.
    The effective learning rate is logged for SGD alone: steps of other optimizers, and those of a given angle, do not
    scale like this. ``weight_norm/<name>`` of each tensor goes only to the message hub and the vis backends.
    Without norm fixing the set is all conv and, with ``fc``, FC weights, so that curves can be compared to a run with
    weight decay (Fig. 1). Changes nothing.

    Args:
        interval (int): Iterations between two measurements. Defaults to 50.
        per_layer (bool): Whether to report each tensor as well. Defaults to True.
        fc (bool): Without norm fixing, whether FC weights count. Defaults to True.
    """

    priority = 'NORMAL'
    measured = ('weight_norm', 'effective_lr')

    def __init__(self, interval: int = 50, per_layer: bool = True, fc: bool = True) -> None:
        self.interval = interval
        self.per_layer = per_layer
        self.fc = fc

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        if not (
            self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            return
        named, lr = self._set(runner)
        norm = global_norm(list(named.values())).item()
        rate = {} if lr is None else {'effective_lr': lr / norm**2}
        self.log_measured(runner, {'weight_norm': norm, **rate})
        if self.per_layer:
            norms = torch.stack([global_norm([t]) for t in named.values()]).tolist()
            scalars = {f'weight_norm/{name}': value for name, value in zip(named, norms, strict=True)}
            for name, value in scalars.items():
                runner.message_hub.update_scalar(name, value)
            runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def _set(self, runner: Runner) -> tuple[dict[str, Tensor], float | None]:
        """Return the tensors by name, and the learning rate of the first of them; None if not that of plain SGD."""
        model, optimizer = unwrapped_model(runner), optimizer_of(runner)
        names = {id(param): name for name, param in model.named_parameters()}
        fixed = {names[id(t)]: t for t in flagged(optimizer)}
        named = fixed or dict(norm_fixing_parameters(model, fc=self.fc))
        if not named:
            raise ConfigError('WeightNormLoggerHook: the model has no trainable conv or FC weight to measure')
        if not isinstance(optimizer, SGD) or any(
            isinstance(fixer, AngleNormFixer) for fixer, _ in norm_fixers_of(runner)
        ):
            return named, None
        first = next(iter(named.values()))
        lr = next(group['lr'] for group in optimizer.param_groups if any(p is first for p in group['params']))
        return named, float(lr)
