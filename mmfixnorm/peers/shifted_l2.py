"""The epsilon-shifted L2 regulariser (Xiang Li et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, WAITING, flag_set, places
from mmfixnorm.core.norm_fixing import add_step_hooks
from mmfixnorm.engine.hooks.fix_norm_hook import norm_fixers_of, optimizer_of, unwrapped_model
from mmfixnorm.engine.start import choose_set, config_errors
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers.checks import require_no_decay

__all__ = ['ShiftedL2Hook', 'add_shifted_l2_gradient_']


@torch.no_grad()
def add_shifted_l2_gradient_(weight: Tensor, weight_decay: float, epsilon: float) -> None:
    r"""Add the gradient of :math:`\frac{\lambda}{2} \sum_i (\|w_i\|_2 - \epsilon)^2` to ``weight.grad``.

    :math:`\lambda\,(1 - \epsilon / \|w_i\|)\, w_i` for each filter :math:`w_i`, that is, for each row of the first
    dimension. It pulls towards the norm :math:`\epsilon` from both sides; it is 0 for a filter of zeros.

    Args:
        weight (Tensor): Shape (filters, ...), with ``grad``.
        weight_decay (float): :math:`\lambda`.
        epsilon (float): :math:`\epsilon`, in the unit of the weights.
    """
    assert weight.grad is not None
    dtype = torch.promote_types(weight.dtype, torch.float32)
    rows = weight.to(dtype).flatten(1)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-30)  # 0 * (eps / 1e-30) is 0
    weight.grad.add_((weight_decay * (1 - epsilon / lengths) * rows).view_as(weight))


@HOOKS.register_module()
class ShiftedL2Hook(Hook):
    r"""L2 regularisation shifted by :math:`\epsilon`, in place of weight decay on scale-invariant weights.

    :math:`\frac{\lambda}{2} (\|w\|_2 - \epsilon)^2` per filter has its minimum at a norm that a weight can have,
    while plain L2 on a scale-invariant weight pulls to 0, where the loss is not defined. With ``epsilon=0`` it is
    weight decay. The gradient is added inside ``optimizer.step``, where SGD adds its own decay: after clipping and
    unscaling, and not in a step that a loss scaler skips. Meant for SGD, as an adaptive optimizer would rescale it.
    Works with any optim wrapper; keeps no state.

    Xiang Li, Shuo Chen, Yan Xia and Jian Yang, "Understanding the Disharmony between Weight Normalization Family and
    Weight Decay: epsilon-shifted L2 Regularizer", arXiv:1911.05920, 2019. Read: the abstract and the authors' code
    (implus/PytorchInsight), not the text. That code has standardised weights, and the standard deviation of a filter
    in place of its norm, with :math:`\epsilon` = 1e-3.

    Args:
        weight_decay (float): :math:`\lambda` > 0.
        epsilon (float): Target norm of a filter, >= 0.
        fc (bool): Whether FC weights belong to the set. Defaults to False.
        exclude (Sequence[str]): Regular expressions of weight names to leave out. Defaults to none.

    Raises:
        ConfigError: If an argument is out of range, the set is empty or already has weight decay, norm fixing is on, or
            the optimizer unscales gradients by itself (``fused=True`` under AMP).

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> custom_hooks = [dict(type='ShiftedL2Hook', weight_decay=1e-4, epsilon=1e-3)]
        >>> optim_wrapper = dict(
        ...     constructor='FixNormOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=1e-4),
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9))
    """

    def __init__(self, weight_decay: float, epsilon: float, fc: bool = False, exclude: Sequence[str] = ()) -> None:
        if not (weight_decay > 0 and math.isfinite(weight_decay)):
            raise ConfigError(f'ShiftedL2Hook.weight_decay must be finite and > 0, got {weight_decay!r}')
        if not (epsilon >= 0 and math.isfinite(epsilon)):
            raise ConfigError(f'ShiftedL2Hook.epsilon must be finite and >= 0, got {epsilon!r}')
        self.weight_decay = weight_decay
        self.epsilon = epsilon
        self.fc = fc
        self.exclude = exclude
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        optimizer = optimizer_of(runner)
        if norm_fixers_of(runner):
            raise ConfigError(
                'ShiftedL2Hook chooses a set of weights of its own, in place of that of norm fixing, and there is no '
                "norm left to regularise: set optim_wrapper.type='OptimWrapper' (or 'AmpOptimWrapper'), and remove "
                'FixNormHook'
            )
        in_set = choose_set(unwrapped_model(runner), fc=self.fc, exclude=self.exclude, named_by='ShiftedL2Hook')
        with config_errors('ShiftedL2Hook: '):
            flag_set(optimizer, in_set.values())
        require_no_decay(optimizer, 'ShiftedL2Hook')
        for handle in self._handles:  # of an earlier call of runner.train()
            handle.remove()
        self._handles = add_step_hooks(optimizer, self._add_gradients)

    def _add_gradients(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if getattr(optimizer, 'grad_scale', None) is not None:
            raise ConfigError('ShiftedL2Hook: the gradients are still scaled; set optim_wrapper.optimizer.fused=False')
        for weight in places(optimizer, FLAG, WAITING).values():  # those that wait are frozen, until they are thawed
            if weight.requires_grad and weight.grad is not None:
                add_shifted_l2_gradient_(weight, self.weight_decay, self.epsilon)
