"""Rotational variants of optimizers (Kosson et al. 2024): weights turn as in the equilibrium of weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from mmfixnorm.core.membership import Place
from mmfixnorm.core.norm_fixing import Moves, unless_skipped
from mmfixnorm.core.norms import compute_dtype
from mmfixnorm.core.rotation import ProposalNormFixer
from mmfixnorm.engine.optim_wrapper import FixNormAmpOptimWrapper, FixNormOptimWrapper, NormFixingMixin
from mmfixnorm.engine.start import config_errors
from mmfixnorm.peers.checks import replace_norm_fixer

__all__ = [
    'RotationalAmpOptimWrapper',
    'RotationalNormFixer',
    'RotationalOptimWrapper',
    'equilibrium_angle',
]


def equilibrium_angle(optimizer: Optimizer, group: dict[str, Any], weight_decay: float) -> Any:
    r"""Compute how far weights turn in a step once weight decay and gradients balance, in radians.

    :math:`\sqrt{2 \eta \lambda / (1 + \mu)}` for SGD with the momentum :math:`\mu`, and
    :math:`\sqrt{2 \eta \lambda (1 - \beta_1) / (1 + \beta_1)}` for AdamW.

    Raises:
        ValueError: If the optimizer is neither SGD with heavy-ball momentum nor Adam or AdamW.
    """
    if isinstance(optimizer, SGD):
        if group['nesterov'] or group['dampening']:
            raise ValueError(
                'the equilibrium of SGD is known with heavy-ball momentum: set optimizer.nesterov=False and dampening=0'
            )
        factor = 1 / (1 + group['momentum'])
    elif isinstance(optimizer, (Adam, AdamW)):
        factor = (1 - group['betas'][0]) / (1 + group['betas'][0])
    else:
        raise ValueError(
            f"the equilibrium is known for optimizer.type='SGD', 'Adam' and 'AdamW', not for {type(optimizer).__name__}"
        )
    return (2 * group['lr'] * weight_decay * factor) ** 0.5


class RotationalNormFixer(ProposalNormFixer):
    r"""Turns each output channel by the angle of the equilibrium, on average over steps; its norm is kept.

    The optimizer's step without the learning rate, :math:`u`, loses its part along the weights :math:`w` of the
    channel, which leaves :math:`t`. An exponential average follows the square of its length,
    :math:`s \leftarrow \beta s + (1 - \beta) \|t\|^2`, divided by :math:`1 - \beta^n` in step :math:`n`. With the norm
    :math:`\rho` of the channel before the first step, :math:`w \leftarrow w - \eta_r\, \rho\, t / \sqrt{s}`, scaled
    back to :math:`\rho`. So a step that is longer than the average turns by more than :math:`\eta_r`, the angle of
    :func:`equilibrium_angle`. Nothing decays.

    Needs one copy of the set.

    Args:
        weight_decay (float): The weight decay :math:`\lambda` > 0 whose equilibrium it is.
        beta (float): Decay of the average, in [0, 1). Defaults to 0.9.

    Raises:
        ValueError: If an argument is out of range; at a step, if a channel is all zero, if weights are sharded, or if
            the equilibrium of the optimizer is not known.
    """

    per = 'output channel, turned as in equilibrium'

    def __init__(self, weight_decay: float, beta: float = 0.9) -> None:
        super().__init__()
        if not (weight_decay > 0 and math.isfinite(weight_decay)):
            raise ValueError(f'weight_decay must be finite and > 0, got {weight_decay!r}')
        if not 0 <= beta < 1:
            raise ValueError(f'beta must be in [0, 1), got {beta!r}')
        self.weight_decay = weight_decay
        self.beta = beta
        self._rows: dict[Place, dict[str, Tensor]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base class, and the norms and averages of the rows of each weight."""
        return {**super().state_dict(), 'rows': {place: dict(rows) for place, rows in self._rows.items()}}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer: Optimizer) -> None:
        super().load_state_dict(state_dict, optimizer)
        self._rows = {
            place: {key: value.clone() for key, value in rows.items()} for place, rows in state_dict['rows'].items()
        }

    def _rescale(self, optimizer: Optimizer, moves: Moves) -> None:
        if moves.every:
            raise ValueError('rotational variants do not work with sharded weights; train under DDP or on one device')
        for place, step, weight in zip(moves.moved, *self._proposal(moves.moved), strict=True):
            group = optimizer.param_groups[place[0]]
            angle = equilibrium_angle(optimizer, group, self.weight_decay)
            old = weight.flatten(1).to(compute_dtype(weight.dtype))
            norms, length, turn = self._turn(optimizer, place, old, step.flatten(1).to(old.dtype) / -group['lr'])
            new = old - torch.where(length == 0, 0.0, angle * norms / length) * turn
            new *= unless_skipped(norms / torch.linalg.vector_norm(new, dim=1, keepdim=True), optimizer)
            step.copy_(new.view_as(step))

    def _turn(self, optimizer: Optimizer, place: Place, old: Tensor, update: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return, row by row, the norm to keep, the average length of updates across the weights, and this one."""
        rows = self._rows.get(place)
        if rows is None:
            rows = {'norms': _norms(old), 'squares': old.new_zeros(len(old), 1), 'shares': old.new_zeros(())}
            if not rows['norms'].all():
                raise ValueError(
                    f'a weight of {len(old)} output channels has some that are all zero, so they have no direction to '
                    'turn from; initialise them, or leave the weight out with exclude'
                )
        rows = {key: value.to(old) for key, value in rows.items()}
        turn = update - (update * old).sum(1, keepdim=True) / rows['norms'] ** 2 * old
        beta = unless_skipped(old.new_full((), self.beta), optimizer)
        rows['squares'] = beta * rows['squares'] + (1 - beta) * turn.square().sum(1, keepdim=True)
        rows['shares'] = beta * rows['shares'] + (1 - beta)  # 1 - beta^n in step n
        self._rows[place] = rows
        # Of 0 shares, while a loss scaler skipped all steps, the average of 0 is 0.
        average = rows['squares'] / rows['shares'].clamp(min=torch.finfo(old.dtype).tiny)
        # nan, so that an overflow is seen; it would stay in the average, and hold the weights where they are.
        return rows['norms'], torch.where(average.isinf(), math.nan, average).sqrt(), turn


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True)


class _RotationalMixin(NormFixingMixin):
    def __init__(self, *args: Any, weight_decay: float, beta: float = 0.9, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with config_errors('optim_wrapper.'):
            norm_fixer = RotationalNormFixer(weight_decay, beta)
            for group in self.optimizer.param_groups:
                equilibrium_angle(self.optimizer, group, weight_decay)
        replace_norm_fixer(self, norm_fixer, 'the norm of each output channel', kwargs)


@OPTIM_WRAPPERS.register_module()
class RotationalOptimWrapper(_RotationalMixin, FixNormOptimWrapper):
    r"""Optim wrapper for the rotational variants of SGD and AdamW: each output channel turns as in equilibrium.

    Learning rate and weight decay set the angle alone, see :class:`RotationalNormFixer`; the optimizer itself does not
    decay the set. All other parameters make the optimizer's own step. A run resumes only from a checkpoint of the same
    wrapper.

    Kosson, Messmer and Jaggi, "Rotational Equilibrium: How Weight Decay Balances Learning Across Neural Networks", ICML
    2024 (arXiv:2305.17212). Read: the abstract and the authors' code (epfml/REQ, ``rotational_wrapper.py``). Left out
    here: centring weights and steps to a zero mean per channel, which changes what the network can represent, and the
    constant that their code adds to the average length.

    Args:
        weight_decay (float): The weight decay :math:`\lambda` > 0 whose equilibrium it is.
        beta (float): Decay of the average over steps, in [0, 1). Defaults to 0.9.

    Raises:
        ConfigError: If an argument is out of range, no group is flagged, ``target`` or ``update='angle'`` is given, or
            the optimizer is neither SGD with heavy-ball momentum nor Adam or AdamW.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     type='RotationalOptimWrapper', weight_decay=1e-4,
        ...     constructor='FixNormOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=1e-4),
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9))
    """


@OPTIM_WRAPPERS.register_module()
class RotationalAmpOptimWrapper(_RotationalMixin, FixNormAmpOptimWrapper):
    """:class:`RotationalOptimWrapper` with automatic mixed precision."""
