r"""Steps of a given angle: the learning rate of the norm-fixing set is how far its weights turn in one step.

The optimizer proposes a step :math:`D` for weights :math:`W`. Its part along the weights is removed,
:math:`T = D - W \langle W, D \rangle / \|W\|^2`, and the weights turn towards it by the learning rate :math:`\eta`, in
radians: :math:`W \leftarrow \|W\| (\cos\eta\, W / \|W\| + \sin\eta\, T / \|T\|)`. So neither the size of the gradients
nor the norm of the weights matters, only directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, WAITING, Place, is_moved, places, positions
from mmfixnorm.core.norm_fixing import Moves, NormFixer, StepGuard, unless_skipped
from mmfixnorm.core.norms import compute_dtype, inner_products, joint_norms, sum_dtype, tensor_norm
from mmfixnorm.core.sharding import local_part, shard_key, sum_over_processes

__all__ = ['UNITS', 'AngleNormFixer', 'ProposalNormFixer', 'bring_to_one_', 'make_norm_fixer']

UNITS = ('set', 'layer', 'filter')
"""What turns by the learning rate: the whole set as one vector, each weight tensor, or each of its output channels."""

_SMALLEST_TANGENT = 1e-3
"""Share of a step across the weights below which it is rounding: a step along the weights turns nothing."""

_LARGE_ANGLE = 0.5  # of a step, in radians


class ProposalNormFixer(NormFixer):
    """A :class:`~mmfixnorm.core.NormFixer` that knows the weights before the step, and the step of the optimizer.

    Needs one copy of the set. Where the optimizer does not read the weights (most of torch's without weight decay and
    without a closure), it steps from 0 in place of the weights, so that small steps lose no digits. What looks at
    the weights in the middle of the step, as a signal handler does, sees these zeros. A step that ends with an error or
    an interrupt leaves the weights of the set as they were before it. A subclass replaces ``_rescale``, and writes the
    new weights of all that moved; and ``_check``, for what it refuses.

    Args:
        target (float | str, optional): As in the base class.
    """

    def __init__(self, target: float | str | None = None) -> None:
        super().__init__(target)
        self._copies: dict[Place, Tensor] = {}
        self._before: tuple[list[Tensor], list[Tensor]] = [], []  # weights that a step changes, and what they were
        self._has_closure = False
        self._from_zero = False
        self._guard: StepGuard | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), '_copies': {}, '_before': ([], []), '_guard': None}

    def install(self, optimizer: Optimizer) -> None:
        if self._optimizer is not optimizer:
            super().install(optimizer)
            self._guard = StepGuard(optimizer, self._put_back)
            self._handles.append(self._guard)

    @torch.no_grad()
    def _put_back(self) -> None:
        parts, copies = self._before
        if parts:
            torch._foreach_copy_(parts, copies)
        self._before = [], []

    @torch.no_grad()
    def _measure(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        super()._measure(optimizer, args, kwargs)
        own_args = (*args[1:], *kwargs.values())  # after the optimizer
        self._has_closure = any(argument is not None for argument in own_args)
        every = places(optimizer, FLAG, WAITING)
        moved = {place: tensor for place, tensor in every.items() if is_moved(optimizer, place)}
        if not self._has_closure:
            self._check(optimizer, moved, every)
        # A hook of another owner that is called after this one would find zeros in place of the weights.
        is_last = next(reversed(optimizer._optimizer_step_pre_hooks)) == self._handles[0].id
        is_guarded = self._guard is not None and self._guard.inside  # not if other code has replaced the step
        self._from_zero = not self._has_closure and is_last and is_guarded and _reads_no_weights(optimizer)
        may_move = {p: t for p, t in every.items() if t.requires_grad} if self._has_closure else moved
        for place, tensor in may_move.items():
            part, copy = local_part(tensor), self._copies.get(place)
            if copy is None or copy.shape != part.shape or copy.dtype != part.dtype or copy.device != part.device:
                self._copies[place] = torch.empty_like(part)
        if may_move:
            parts, copies = [local_part(t) for t in may_move.values()], [self._copies[place] for place in may_move]
            torch._foreach_copy_(copies, parts)
            self._before = parts, copies
            if self._from_zero:
                torch._foreach_zero_(parts)

    @torch.no_grad()
    def _hold(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._has_closure:
            every = places(optimizer, FLAG, WAITING)
            moved = {place: tensor for place, tensor in every.items() if is_moved(optimizer, place)}
            self._check(optimizer, moved, every)
        super()._hold(optimizer, args, kwargs)
        self._before = [], []

    def _check(self, optimizer: Optimizer, moved: Mapping[Place, Tensor], every: Mapping[Place, Tensor]) -> None:
        """Refuse what the weights cannot be turned with, before the step; with a closure, after it, as gradients come.

        Args:
            optimizer (Optimizer): Takes the step.
            moved (Mapping[Place, Tensor]): The weights that it moves.
            every (Mapping[Place, Tensor]): All weights that are in the set or may join.
        """

    def stepped_from_zero(self, optimizer: Optimizer) -> list[Tensor]:
        if not self._from_zero:
            return []
        return [t for place, t in places(optimizer, FLAG, WAITING).items() if is_moved(optimizer, place)]

    def _proposal(self, moved: Mapping[Place, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the steps of the weights that moved, in the memory of the weights, and the weights before them."""
        steps, weights = [local_part(t) for t in moved.values()], [self._copies[place] for place in moved]
        if not self._from_zero and steps:
            torch._foreach_sub_(steps, weights)
        return steps, weights


class AngleNormFixer(ProposalNormFixer):
    r"""Turns each unit of the norm-fixing set by exactly the learning rate of its group, in radians; the norm is kept.

    The optimizer inside chooses the direction, by gradients, momentum and whatever else it does; the length of its
    step has no effect. A unit without a gradient, or whose step is only along its weights, stays as it is. Which
    weights a step moves, and the target of the joint norm, are as in :class:`~mmfixnorm.core.NormFixer`.

    Needs one copy of the set, see :class:`ProposalNormFixer`.

    Args:
        target (float | str, optional): The joint norm to keep, see :class:`~mmfixnorm.core.NormFixer`.
        per (str): The unit that turns: ``'set'``; ``'layer'``, each weight tensor; ``'filter'``, each slice of the
            first dimension of a convolution (its output channels; those of input if it is transposed), and linear
            layers as a whole. Defaults to 'layer'.

    Raises:
        ValueError: If ``per`` is none of the three; at :meth:`install`, if a learning rate is negative or above
            pi; at a step, if one has come above pi, if a weight is all zero, if groups have different learning rates
            with ``'set'``, or if weights are sharded with ``'filter'``.
    """

    def __init__(self, target: float | str | None = None, per: str = 'layer') -> None:
        super().__init__(target)
        if per not in UNITS:
            raise ValueError(f"per must be 'set', 'layer' or 'filter', got {per!r}")
        self.unit = per
        self.per = f'set, turned by angle per {per}'
        self._has_warned = False

    def install(self, optimizer: Optimizer) -> None:
        if self._optimizer is optimizer:
            return
        rates = _numbers(optimizer.param_groups[number]['lr'] for number, _ in places(optimizer, FLAG, WAITING))
        if wrong := [rate for rate in rates if not 0 <= rate <= math.pi]:
            raise ValueError(
                f"with update='angle' the learning rate is an angle from 0 to pi, in radians, got {wrong[0]}"
            )
        super().install(optimizer)

    def _check(self, optimizer: Optimizer, moved: Mapping[Place, Tensor], every: Mapping[Place, Tensor]) -> None:
        angles = [optimizer.param_groups[number]['lr'] for number, _ in moved]
        if self.unit == 'set':
            _refuse_different(angles)
        largest = max(_numbers(angles), default=0)
        if largest > math.pi:
            raise ValueError(f"with update='angle' the learning rate is an angle of at most pi, got {largest}")
        if largest > _LARGE_ANGLE and not self._has_warned:
            self._has_warned = True
            self.report.write(
                f'Norm fixing: the learning rate {largest} is an angle, in radians, and a large one for a step. Was it '
                "meant for update='step'? Usual angles are near 0.02"
            )
        sharded = any(shard_key(tensor) is not None for tensor in every.values())
        if sharded and self.unit == 'filter':
            raise ValueError("per='filter' does not work with sharded weights, which divide filters; set per='layer'")
        joining = [place for place in self._norms_before if place in moved]
        if joining and (self._size is None or not sharded):
            self._refuse_zeros(joining, every)

    def _refuse_zeros(self, joining: Iterable[Place], every: Mapping[Place, Tensor]) -> None:
        parts = [([every[place]], [self._norms_before[place]]) for place in joining]
        norms = joint_norms(parts, [*every.values()]).tolist()
        zeros = [
            tuple(tensors[0].shape)
            for (tensors, _), norm in zip(parts, norms, strict=True)
            if norm == 0 and not (tensors[0].numel() == 0 and shard_key(tensors[0]) is None)
        ]
        if zeros:
            raise ValueError(
                f'weights of shape {zeros} are all zero, so they have no direction to turn from; initialise them, or '
                'leave them out of the set with exclude'
            )

    def _rescale(self, optimizer: Optimizer, moves: Moves) -> None:
        moved, held, every = moves
        steps, weights = self._proposal(moved)
        units: dict[Place, Tensor] = {}
        if moved:
            scales = bring_to_one_(steps, self.unit)
            local = torch.cat(_unit_sums(weights, steps, self.unit), dim=1)
            local *= torch.stack([torch.ones_like(scales), scales**2, scales])
            sizes = [_number_of_units(step, self.unit) for step in steps]
            units = dict(zip(moved, local.split(sizes, dim=1), strict=True))
        held_squares = {place: tensor_norm(local_part(tensor)) ** 2 for place, tensor in held.items()}
        if every:
            units, held_squares = _sum_over_processes(every, units, held_squares)
        if not moved:
            return
        sums, angle_sizes = torch.cat([units[place] for place in moved], dim=1), sizes
        # The joint norm of the weights after the turn is that before it, so one factor brings it to the target.
        length: Any = self._target
        if held_squares:
            length = self._left_of_target(torch.stack([*held_squares.values()]).sum(), held, moved)
        factor = unless_skipped(length / sums[0].sum().sqrt(), optimizer)
        angles = [optimizer.param_groups[number]['lr'] for number, _ in moved]
        if self.unit == 'set':
            sums, angles, angle_sizes = sums.sum(dim=1, keepdim=True), angles[:1], [1]
        of_weights, of_steps = _coefficients(sums, _per_unit(angles, angle_sizes, sums))
        of_steps = of_steps * factor * scales
        _combine_(steps, of_steps.split(sizes), weights, (of_weights * factor).split(angle_sizes))


_READ_NO_WEIGHTS = (
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.Adadelta, optim.Adagrad, optim.RMSprop, optim.Rprop),
    *([optim.Muon] if hasattr(optim, 'Muon') else ()),  # torch 2.9
)
"""Optimizers of torch that use the weights for weight decay alone; not Adafactor, ASGD, nor subclasses."""


def _reads_no_weights(optimizer: Optimizer) -> bool:
    """Tell whether the step of the set does not depend on its weights, only on their gradients."""
    of_set = [group for group in optimizer.param_groups if positions(group) or positions(group, WAITING)]
    return type(optimizer) in _READ_NO_WEIGHTS and not any(group.get('weight_decay', 0) for group in of_set)


def bring_to_one_(steps: Sequence[Tensor], unit: str) -> Tensor:
    """Divide each unit of each step, in place, by a power of 2 that brings its largest element close to 1.

    So the sums of its squares neither overflow nor vanish, whatever the size of the gradients. Half precision is left
    as it is: float32, in which it is summed, has the squares of all its numbers.

    Args:
        steps (Sequence[Tensor]): At least one; not sharded.
        unit (str): One of ``UNITS``.

    Returns:
        Tensor: The divisors, one for each unit of each step; 1-d, on the device of the first, in the dtype of sums.
            Of a step that is not finite, it is not finite, or the step is not finite after it.
    """
    device, sizes = steps[0].device, [_number_of_units(step, unit) for step in steps]
    wide = [i for i, step in enumerate(steps) if step.dtype != torch.float16 and step.numel()]
    ends: list[tuple[Tensor, Tensor]] = []
    for i, (step, size) in enumerate(zip(steps, sizes, strict=True)):
        if i not in wide:
            ends.append((-step.new_ones(size), step.new_ones(size)))
        elif _has_filters(step, unit):  # torch 2.1 has no aminmax of rows in bfloat16 on the CPU
            ends.append((step.flatten(1).amin(dim=1), step.flatten(1).amax(dim=1)))
        else:  # not the norm of order inf, which is 15 times as slow on the CPU
            ends.append(step.aminmax())
    low, high = (torch.cat([end.reshape(-1).to(device) for end in column]) for column in zip(*ends, strict=True))
    scales = torch.maximum(-low, high).to(sum_dtype(device)).log2().round().clamp(-126, 126).exp2()
    inverse = scales.reciprocal().split(sizes)
    if wide:
        factors = [inverse[i].to(steps[i]).view(-1, *[1] * (steps[i].ndim - 1)) for i in wide]
        torch._foreach_mul_([steps[i] for i in wide], factors)
    return scales


def _has_filters(tensor: Tensor, unit: str) -> bool:
    return unit == 'filter' and tensor.ndim > 2


def _number_of_units(tensor: Tensor, unit: str) -> int:
    """Count what turns by itself in a weight tensor."""
    return len(tensor) if _has_filters(tensor, unit) else 1


def _unit_sums(weights: Sequence[Tensor], steps: Sequence[Tensor], unit: str) -> list[Tensor]:
    """Sum ``w * w``, ``d * d`` and ``w * d`` over each unit of each tensor: ``(3, 1)``, or ``(3, filters)``."""
    sums: dict[int, Tensor] = {}
    if whole := [i for i, w in enumerate(weights) if not _has_filters(w, unit)]:
        products = inner_products([weights[i] for i in whole], [steps[i] for i in whole])
        sums.update(zip(whole, products, strict=True))
    for i in set(range(len(weights))) - set(whole):
        a, b = (t[i].flatten(1).to(compute_dtype(t[i].dtype)) for t in (weights, steps))
        parts = [(x * y).sum(dim=1, dtype=sum_dtype(x.device)) for x, y in ((a, a), (b, b), (a, b))]
        sums[i] = torch.stack(parts)
    return [sums[i] for i in range(len(weights))]


def _coefficients(sums: Tensor, angles: Any) -> tuple[Tensor, Tensor]:
    """Compute the factors of the weights and of the step whose sum is the weights turned, for each unit."""
    squared, step_squared, product = sums
    length = squared.sqrt()
    along = product / length
    tangent, step = (step_squared - along**2).clamp(min=0).sqrt(), step_squared.sqrt()
    # A step that is not finite turns its unit to nan, so that it is seen.
    turns = (length > 0) & ~((tangent <= _SMALLEST_TANGENT * step) & step.isfinite())
    per_step = torch.where(turns, angles.sin() * length / tangent, 0.0)
    return torch.where(turns, angles.cos() - per_step * along / length, 1.0), per_step


def _numbers(rates: Iterable[Any]) -> list[float]:
    """Leave out learning rates that are tensors, which may be on a device."""
    return [rate for rate in rates if not isinstance(rate, Tensor)]


def _refuse_different(angles: Sequence[Any]) -> None:
    if any(angle is not angles[0] and angle != angles[0] for angle in angles):
        raise ValueError(
            f"per='set' turns all weights by one angle, and their groups have the learning rates {sorted({*angles})}; "
            "set per='layer', or leave lr_mult to weights outside the set"
        )


def _per_unit(angles: Sequence[Any], sizes: Sequence[int], like: Tensor) -> Tensor:
    """Repeat the angle of each tensor for its units."""
    if all(angle is angles[0] or angle == angles[0] for angle in angles):
        angles, sizes = angles[:1], [sum(sizes)]
    # A number is filled in on the device; copying it there would wait for the device.
    parts = [
        a.to(like).expand(n) if isinstance(a, Tensor) else like.new_full((n,), a)
        for a, n in zip(angles, sizes, strict=True)
    ]
    return torch.cat(parts)


def _combine_(
    steps: Sequence[Tensor], of_steps: Sequence[Tensor], weights: Sequence[Tensor], of_weights: Sequence[Tensor]
) -> None:
    """Put ``of_steps * steps + of_weights * weights`` in the place of each step; factors for tensors or filters."""
    of_steps, of_weights = _shaped(of_steps, steps), _shaped(of_weights, steps)
    whole = [i for i, factor in enumerate(of_steps) if factor.dtype == steps[i].dtype]
    if whole:
        chosen = [steps[i] for i in whole]
        torch._foreach_mul_(chosen, [of_steps[i] for i in whole])
        torch._foreach_addcmul_(chosen, [weights[i] for i in whole], [of_weights[i] for i in whole])
    for i in set(range(len(steps))) - set(whole):  # of half precision: rounded once, at the end
        steps[i].copy_((steps[i] * of_steps[i]).addcmul_(weights[i].to(of_weights[i].dtype), of_weights[i]))


def _shaped(factors: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Bring factors into the shape in which each multiplies its tensor, or the filters of its tensor."""
    if len(factors) < len(tensors):
        factors = [factors[0]] * len(tensors)  # of the set
    # Never 0-d: such a float32 factor of half tensors would be rounded to half.
    return [f.view(-1, *[1] * (t.ndim - 1)).to(compute_dtype(t.dtype)) for f, t in zip(factors, tensors, strict=True)]


def _sum_over_processes(
    every: Mapping[Place, Tensor], units: Mapping[Place, Tensor], held: Mapping[Place, Tensor]
) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
    """Sum over the processes that share each tensor, in one all-reduce for each way of sharding."""
    first = local_part(next(iter(every.values())))
    zero = torch.zeros((4, 1), dtype=sum_dtype(first.device), device=first.device)
    columns = {}
    for place in every:
        column = zero.clone()
        if place in units:
            column[:3] = units[place]
        if place in held:
            column[3] = held[place]
        columns[place] = column
    columns = dict(zip(columns, sum_over_processes([*every.values()], [*columns.values()]), strict=True))
    return {place: columns[place][:3] for place in units}, {place: columns[place][3, 0] for place in held}


def make_norm_fixer(target: float | str | None, update: str, per: str | None) -> NormFixer:
    """Make a :class:`NormFixer`, or with ``update='angle'`` an :class:`AngleNormFixer`.

    Raises:
        ValueError: If an argument is unknown, or if ``per`` is given without ``update='angle'``.
    """
    if update == 'angle':
        return AngleNormFixer(target, 'layer' if per is None else per)
    if update != 'step':
        raise ValueError(f"update must be 'step' or 'angle', got {update!r}")
    if per is not None:
        raise ValueError(f"per is for update='angle' alone, got {per!r} with update='step'")
    return NormFixer(target)
