"""Logs of weight norms and of the effective learning rate."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmfixnorm.config import HOOK_NAMES
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.core.norms import global_norm
from mmfixnorm.engine.hooks.fix_norm_hook import optimizer_of, unwrapped_model
from mmfixnorm.errors import ConfigError


@HOOKS.register_module(name=HOOK_NAMES['WeightNormLoggerHook'])
class WeightNormLoggerHook(Hook):
    """Logs the norm of the norm-fixing set, of each of its tensors, and the effective learning rate.

    Every ``interval`` iterations and at the end of an epoch, after the step and before LoggerHook:
    ``train/weight_norm`` (the whole set as one vector) and ``train/effective_lr`` (``lr / ||W||^2``, eq. 4)
    appear in the log line; ``weight_norm/<name>`` of each tensor goes only to the message hub and the vis backends.
    Without norm fixing the set is all conv and, with ``fc``, FC weights, so that curves can be compared to a run with
    weight decay (Fig. 1). Changes nothing.

    Args:
        interval (int): Iterations between two measurements. Defaults to 50.
        per_layer (bool): Whether to report each tensor as well. Defaults to True.
        fc (bool): Without norm fixing, whether FC weights count. Defaults to True.
    """

    priority = 'NORMAL'

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
        runner.message_hub.update_scalar('train/weight_norm', norm)
        runner.message_hub.update_scalar('train/effective_lr', lr / norm**2)
        if self.per_layer:
            norms = torch.stack([global_norm([t]) for t in named.values()]).tolist()
            scalars = {f'weight_norm/{name}': value for name, value in zip(named, norms, strict=True)}
            for name, value in scalars.items():
                runner.message_hub.update_scalar(name, value)
            runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def _set(self, runner: Runner) -> tuple[dict[str, Tensor], float]:
        """Return the tensors by name, and the learning rate of the first of them."""
        model, optimizer = unwrapped_model(runner), optimizer_of(runner)
        names = {id(param): name for name, param in model.named_parameters()}
        fixed = {names[id(t)]: t for t in flagged(optimizer)}
        named = fixed or dict(norm_fixing_parameters(model, fc=self.fc))
        if not named:
            raise ConfigError('WeightNormLoggerHook: the model has no trainable conv or FC weight to measure')
        first = next(iter(named.values()))
        lr = next(group['lr'] for group in optimizer.param_groups if any(p is first for p in group['params']))
        return named, float(lr)
