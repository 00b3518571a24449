"""A learning rate that grows as fast as weights grow without decay (Li and Arora 2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.optim import BaseOptimWrapper, _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.registry import PARAM_SCHEDULERS
from torch.optim import SGD, Optimizer

from mmfixnorm.core.membership import FLAG, WAITING, Place, places
from mmfixnorm.core.norm_fixing import add_step_hooks
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers.checks import refuse_norm_fixing, require_flagged_groups, require_no_decay

__all__ = ['ExponentialGrowthLR', 'decay_alone']


def decay_alone(
    length: float, velocity: float, *, lr: float, weight_decay: float, momentum: float
) -> tuple[float, float]:
    """Take one step of SGD with momentum on ``weight_decay / 2 * length ** 2``: decay without a loss.

    Returns:
        tuple[float, float]: The new length and velocity; a run starts at (1.0, 0.0).
    """
    velocity = momentum * velocity + weight_decay * length
    return length - lr * velocity, velocity


@PARAM_SCHEDULERS.register_module()
class ExponentialGrowthLR(_ParamScheduler):
    r"""Turns the schedule of a run with weight decay into the equivalent one without it, for scale-invariant weights.

    Let :math:`\eta_t` be the learning rates of all other schedulers, :math:`\lambda` the weight decay to replace
    and :math:`\gamma` the momentum. With :math:`u_t` from :func:`decay_alone`, :math:`u_0 = 1`, the flagged groups get

    .. math::
        \tilde\eta_t = \eta_t / (u_t\, u_{t+1})

    and after every step their weights are those of the run with decay times :math:`1 / u_t`: the same function. Proof:
    :math:`\tilde w_t = w_t / u_t` and, for the momentum buffers, :math:`\tilde m_t = u_t m_t - v_t w_t`, with the
    velocity :math:`v_t`, hold for t = 0 and, by induction, for each step, as the gradient at
    :math:`\tilde w` is :math:`u_t` times that at w. For constant :math:`\eta` the ratio :math:`u_{t+1} / u_t` tends
    to the larger root :math:`\alpha` of :math:`x^2 - (1 + \gamma - \lambda \eta) x + \gamma = 0`, and
    :math:`\tilde\eta_t` grows as the :math:`\eta\, \alpha^{-2t-1}` of the paper; the root is real for
    :math:`\lambda \eta \le (1 - \sqrt\gamma)^2`. Exact from the first step, for schedules that change, and for a
    learning rate of 0.

    The other groups, such as a classifier with its own weight decay, keep :math:`\eta_t`. The recursion advances with
    every real step of the optimizer, so neither accumulation nor a step that a loss scaler skips disturbs it, and the
    other schedulers may be of any kind. Its state is saved in checkpoints with the other schedulers. Norms would
    overflow float32 in a long run: when a group has grown by ``rescale_at``, its weights and buffers are rescaled by a
    power of two, which changes only exponents and not the function. A weight that is frozen at first, or unused, keeps
    its norm; with its first step it is brought to the length :math:`w / u_t` and the momentum :math:`-v_t w`, from
    where the proof holds for it too. Averages of weights (EMAHook) are meaningless here,
    and a threshold of gradient clipping applies to gradients of a different size. The ``eps`` of batch normalisation
    perturbs the equivalence.

    Zhiyuan Li and Sanjeev Arora, "An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020
    (arXiv:1910.07454). Read: the abstract and summaries of the theorems; the recursion above is derived here.

    Args:
        optimizer (OptimWrapper or Optimizer): With ``torch.optim.SGD``, no dampening and no Nesterov momentum (for
            which the proof fails), and a group that has the same base learning rate without growth.
        weight_decay (float): :math:`\lambda` > 0 of the run to be equivalent to.
        rescale_at (float): Growth of a norm after which it is rescaled, >= 2. Defaults to 2 ** 32.
        begin (int): Must be 0.
        end (int): Has no effect, as growth continues to the last step; the Runner passes its length.
        last_step (int): As in mmengine. Defaults to -1.
        by_epoch (bool): Must be False.
        verbose (bool): Whether to print each value. Defaults to False.

    Raises:
        ConfigError: If an argument, the optimizer or its groups are not as above, if norm fixing is on, if
            ``lr * weight_decay`` is so large that decay alone would make a weight cross 0, or on resume from a run
            without growth.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     constructor='FixNormOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=1e-4),
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9))
        >>> param_scheduler = [
        ...     dict(type='CosineAnnealingLR', T_max=20, convert_to_iter_based=True),
        ...     dict(type='ExponentialGrowthLR', weight_decay=1e-4, by_epoch=False)]
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper | Optimizer,
        weight_decay: float,
        rescale_at: float = 2.0**32,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = False,
        verbose: bool = False,
    ) -> None:
        if by_epoch or begin != 0:
            raise ConfigError(
                'param_scheduler: ExponentialGrowthLR needs by_epoch=False and begin=0, as it acts on every step'
            )
        if not (weight_decay > 0 and math.isfinite(weight_decay)):
            raise ConfigError(f'ExponentialGrowthLR.weight_decay must be finite and > 0, got {weight_decay!r}')
        if not rescale_at >= 2:
            raise ConfigError(f'ExponentialGrowthLR.rescale_at must be >= 2, got {rescale_at!r}')
        refuse_norm_fixing(optimizer, 'ExponentialGrowthLR')
        _check_optimizer(_inner(optimizer))
        self.weight_decay = weight_decay
        self.rescale_at = rescale_at
        #: Length and velocity of `decay_alone` for each flagged group, by its position; empty before the first step.
        self.decays: dict[int, tuple[float, float]] = {}
        #: The weights that have begun to train, by their places in the groups.
        self.started: dict[Place, bool] = {}
        self._hooked: Optimizer | None = None
        super().__init__(optimizer, 'lr', last_step=last_step, by_epoch=False, verbose=verbose)

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != '_hooked'}

    def _get_value(self) -> list[float]:
        optimizer = _inner(self.optimizer)
        if self._hooked is not optimizer:  # the hooks are missing, or the optimizer was replaced
            add_step_hooks(optimizer, self._grow, self._advance)
            self._hooked = optimizer
        return [
            self._grown_lr(position, group) if _grows(group) else group['lr']
            for position, group in enumerate(self.optimizer.param_groups)
        ]

    def _grow(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Set the rates at the step itself, as other schedulers may have changed them since."""
        if not self.decays and any('momentum_buffer' in state for state in optimizer.state.values()):
            raise ConfigError(
                'ExponentialGrowthLR: the checkpoint has momentum but no state of this scheduler, so such a run '
                'did not write it. Use load_from instead of resume to start from its weights'
            )
        refuse_norm_fixing(optimizer, 'ExponentialGrowthLR')
        self._take_up(optimizer)
        for position, group in enumerate(optimizer.param_groups):
            if _grows(group):
                group['lr'] = self._grown_lr(position, group)

    @torch.no_grad()
    def _take_up(self, optimizer: Optimizer) -> None:
        """Bring weights that begin to train to where they would be, had they grown with their group."""
        trained = {p: t for p, t in places(optimizer, FLAG, WAITING).items() if t.requires_grad and t.grad is not None}
        is_early_state = bool(self.decays) and not self.started  # it does not say which weights have trained
        for place, weight in trained.items():
            if place in self.started:
                continue
            self.started[place] = True
            if is_early_state or place[0] not in self.decays:
                continue
            length, velocity = self.decays[place[0]]
            if optimizer.param_groups[place[0]]['momentum']:
                optimizer.state[weight]['momentum_buffer'] = weight * -velocity
            assert weight.grad is not None
            weight.mul_(1 / length)
            weight.grad.mul_(length)  # as at the new length

    def _advance(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, 'found_inf', None)
        if found_inf is not None and found_inf.item() > 0:  # a fused optimizer skipped the step by itself
            return
        for position, group in enumerate(optimizer.param_groups):
            if _grows(group):
                self.decays[position] = self._next(position, group)
                if self.decays[position][0] * self.rescale_at <= 1:
                    self._rescale(optimizer, position, group)

    @torch.no_grad()
    def _rescale(self, optimizer: Optimizer, position: int, group: dict[str, Any]) -> None:
        length, velocity = self.decays[position]
        growth = 2.0 ** round(-math.log2(length))
        weights = [p for i, p in enumerate(group['params']) if (position, i) in self.started]
        if weights:
            torch._foreach_mul_(weights, 1 / growth)
        buffers = [optimizer.state[p].get('momentum_buffer') for p in weights if p in optimizer.state]
        buffers = [buffer for buffer in buffers if buffer is not None]
        if buffers:
            torch._foreach_mul_(buffers, growth)
        self.decays[position] = (length * growth, velocity * growth)

    def _grown_lr(self, position: int, group: dict[str, Any]) -> float:
        length, _ = self.decays.get(position, (1.0, 0.0))
        next_length, _ = self._next(position, group)
        return self._plain_lr(group) / (length * next_length)

    def _next(self, position: int, group: dict[str, Any]) -> tuple[float, float]:
        length, velocity = self.decays.get(position, (1.0, 0.0))
        lr = self._plain_lr(group)
        after = decay_alone(length, velocity, lr=lr, weight_decay=self.weight_decay, momentum=group['momentum'])
        if after[0] <= 0:
            raise ConfigError(
                f'ExponentialGrowthLR: a weight decay of {self.weight_decay} at lr {lr} changes a weight of norm '
                f'{length:g} to {after[0]:g}; there is no equivalent schedule. Keep lr * weight_decay below '
                '(1 - sqrt(momentum)) ** 2'
            )
        return after

    def _plain_lr(self, group: dict[str, Any]) -> float:
        for other in self.optimizer.param_groups:
            if not _grows(other) and other['initial_lr'] == group['initial_lr']:
                return other['lr']
        raise ConfigError(
            'ExponentialGrowthLR: no group outside the set has the same base learning rate '
            f"({group['initial_lr']}), which gives the schedule without growth; remove lr_mult of the set's weights"
        )


def _grows(group: dict[str, Any]) -> bool:
    return bool(group.get(FLAG) or group.get(WAITING))


def _inner(optimizer: BaseOptimWrapper | Optimizer) -> Optimizer:
    return optimizer if isinstance(optimizer, Optimizer) else optimizer.optimizer


def _check_optimizer(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, SGD):
        raise ConfigError(f'ExponentialGrowthLR needs optimizer.type=SGD, got {type(optimizer).__name__}')
    require_flagged_groups(optimizer, 'ExponentialGrowthLR')
    require_no_decay(optimizer, 'ExponentialGrowthLR')
    for key, off in (('nesterov', False), ('dampening', 0)):
        if any(group[key] for group in optimizer.param_groups if _grows(group)):
            raise ConfigError(
                f'ExponentialGrowthLR: no equivalent exists for SGD with {key}; set optimizer.{key}={off}'
            )
