"""Alpha set during training, from the measured cross-boundary risk."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfixnorm.core.cross_boundary_risk import cross_boundary_risk
from mmfixnorm.core.layers import FixNormLinear
from mmfixnorm.core.sharding import shard_key
from mmfixnorm.engine.hooks.cross_boundary_risk_hook import find_classifier
from mmfixnorm.engine.hooks.fix_norm_hook import unwrapped_model
from mmfixnorm.errors import ConfigError


@HOOKS.register_module()
class AutoAlphaHook(Hook):
    r"""Lets the scale ``g`` of the final layer grow only as fast as the cross-boundary risk falls.

    The mean margin of a sample's logits is about :math:`g \, \|x\| \, (-\mathrm{MCBR})`. So a loss can fall in two
    ways: features turn away from the boundaries, or ``g`` grows and the features need not turn (section 2.3). The rule
    keeps the two in step. For the first part of the training, ``free``, ``g`` has no bound. Then
    :math:`q = g / (-\mathrm{MCBR})` is measured once, and from then on

    .. math:: g \le \alpha \sqrt{\#\mathrm{class}} = q \cdot (-\mathrm{MCBR})

    While the risk continues to fall ``g`` may grow with it; when the risk stalls, so does ``g``; when it rises the
    bound falls, and samples that are already classified correctly get a stronger gradient away from the boundaries
    (eq. 8: the other classes' probabilities grow). The risk is measured on training batches, never on validation
    labels, and averaged over the processes and the last measurements; the bound changes only if it is below zero.

    After each step a ``g`` above the bound is clamped to it, as the gradient is zero there. So the weights of a
    checkpoint give the trained function without knowing alpha. The state of the rule is saved with them under
    ``'auto_alpha'``, and required on resume. ``train/alpha`` is logged once there is a bound. ``torch.compile``
    recompiles for each alpha, and torch 2.11 leaves the model uncompiled after 8 recompilations.

    Args:
        layer (str, optional): Name of the final layer in the model, a :class:`FixNormLinear` without a bound, as in a
            head with ``alpha='auto'``. Defaults to None: the model's last linear layer.
        free (float): Share of the training in which ``g`` has no bound; must cover the warm-up. Defaults to 0.2.
        interval (int): Iterations between two measurements. Defaults to 5.
        average (int): Number of measurements that the risk is the mean of. Defaults to 10.

    Raises:
        ConfigError: If an argument or the layer is not as described, if the layer is sharded, if labels are mixed, or
            on resume from a checkpoint of a run without this hook.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook, which then averages a `g` below its bound

    def __init__(self, layer: str | None = None, free: float = 0.2, interval: int = 5, average: int = 10) -> None:
        if not 0 < free <= 1:
            raise ConfigError(f'AutoAlphaHook.free must be a share of the training in (0, 1], got {free!r}')
        if min(interval, average) < 1:
            raise ConfigError(f'AutoAlphaHook.interval and average must be >= 1, got {interval!r} and {average!r}')
        self.layer = layer
        self.free = free
        self.interval = interval
        self.alpha = math.inf
        self.scale_per_risk: float | None = None
        self.risks: deque[float] = deque(maxlen=average)
        self._features: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        model = unwrapped_model(runner)
        if getattr(getattr(model, 'data_preprocessor', None), 'batch_augments', None) is not None:
            raise ConfigError(
                'AutoAlphaHook needs one label per image: remove model.data_preprocessor.batch_augments, or give '
                'alpha a number'
            )
        self._classifier = unbounded_classifier(model, self.layer)
        self._classifier.alpha = self.alpha  # from the checkpoint in a resumed run
        # Not in before_run: EMAHook copies the model there, hooks included.
        self._classifier.register_forward_pre_hook(self._capture)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            assert isinstance(data_batch, dict)
            self.risks.append(self._risk(data_batch['data_samples']))
            if runner.iter + 1 >= self.free * runner.max_iters:
                self._set_bound(sum(self.risks) / len(self.risks))
            if math.isfinite(self.alpha):
                runner.message_hub.update_scalar('train/alpha', self.alpha)
        if math.isfinite(self.alpha):
            with torch.no_grad():
                bound = self._classifier.scale_bound
                self._classifier.g.clamp_(min=-bound, max=bound)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['auto_alpha'] = dict(alpha=self.alpha, scale_per_risk=self.scale_per_risk, risks=list(self.risks))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        if 'auto_alpha' not in checkpoint:
            raise ConfigError(
                "the checkpoint has no state 'auto_alpha': it was not written by a run with AutoAlphaHook. "
                'Use load_from instead of resume to start from its weights'
            )
        state = checkpoint['auto_alpha']
        self.alpha, self.scale_per_risk = state['alpha'], state['scale_per_risk']
        self.risks.extend(state['risks'])

    def _capture(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._features = args[0].detach()

    def _risk(self, data_samples: Any) -> float:
        assert self._features is not None
        labels = torch.cat([sample.gt_label.reshape(-1) for sample in data_samples]).to(self._features.device)
        risk = cross_boundary_risk(self._features, labels, self._classifier.weight)
        all_reduce(risk, op='mean')
        return risk.item()

    def _set_bound(self, risk: float) -> None:
        if not risk < 0:  # the classes are not separated yet, or the training has diverged
            return
        layer = self._classifier
        if self.scale_per_risk is None and layer.g.item() > 0:
            self.scale_per_risk = layer.g.item() / -risk
        if self.scale_per_risk is not None:
            self.alpha = layer.alpha = self.scale_per_risk * -risk / math.sqrt(layer.out_features)


def unbounded_classifier(model: nn.Module, name: str | None) -> FixNormLinear:
    """Return the final layer of a classifier, whose alpha is to be set, and tell its head not to wait for alpha.

    Raises:
        ConfigError: If the layer is not a FixNormLinear without a bound, or if it is sharded.
    """
    layer = find_classifier(model, name)
    if not isinstance(layer, FixNormLinear) or math.isfinite(layer.alpha):
        raise ConfigError(
            f'AutoAlphaHook sets alpha of a FixNormLinear that has none (math.inf), got {layer}; set model.head to '
            "dict(type='FixNormLinearClsHead', alpha='auto', ...), or remove the hook"
        )
    if shard_key(layer.weight) is not None:
        raise ConfigError('AutoAlphaHook does not work with a sharded final layer; use DDP, or give alpha a number')
    head: Any = next(module for module in model.modules() if layer in module.children())
    head.waits_for_alpha = False
    return layer
