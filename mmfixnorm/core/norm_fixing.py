"""Norm fixing: restore the joint norm of a set of weights after each optimizer step (Algorithm 1, line 7)."""

from __future__ import annotations

import math
import re
import types
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmfixnorm.core.layer_kinds import is_fixable_weight
from mmfixnorm.core.sharding import (
    local_part,
    mark_shards,
    shard_key,
    sum_over_shards_,
    zero_partition,
)

__all__ = [
    'FLAG',
    'NormFixer',
    'add_step_hooks',
    'fix_norm',
    'flag_set',
    'flagged',
    'global_norm',
    'norm_fixing_parameters',
    'scale_',
    'scale_unless_skipped_',
    'starting_norm',
    'tensor_norm',
    'warn_of_decay',
]

FLAG = 'fix_norm'
"""Key of a parameter group: ``True`` if all its tensors are in the norm-fixing set, else the list of their positions.
A flag on the group survives a copy, a pickle or a checkpoint, which replace optimizers and tensors."""


@torch.no_grad()
def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Compute the L2 norm of all tensors as one vector: 0-d, float64 (float32 on MPS), on the device of the first.

    No host synchronisation. Sums in float32 or better, whatever the dtype of the tensors. Each process measures its
    part of sharded tensors; one all-reduce of a scalar follows for each way of sharding.

    Raises:
        ValueError: If there are no tensors, or if one is a shard of FSDP and :func:`mark_shards` was not called.
    """
    if not tensors:
        raise ValueError('there are no tensors to take the norm of; the norm-fixing set is empty')
    device = tensors[0].device
    alike: dict[Hashable, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(shard_key(tensor), []).append(local_part(tensor))
    norms = [
        _local_norm(parts, device) if key is None else sum_over_shards_(_local_norm(parts, device) ** 2, key).sqrt()
        for key, parts in alike.items()
    ]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def _local_norm(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    fast = [t for t in tensors if t.device.type != 'cpu' and t.dtype == torch.float32]
    norms = list(torch._foreach_norm(fast)) if fast else []
    norms += [tensor_norm(t) for t in tensors if t.device.type == 'cpu' or t.dtype != torch.float32]
    dtype = torch.float32 if device.type == 'mps' else torch.float64
    return torch.linalg.vector_norm(torch.stack([n.to(device, dtype) for n in norms]))


_ROW = 1024


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, else float32. torch.promote_types is not used: torch 2.1 cannot compile it."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tensor_norm(tensor: Tensor) -> Tensor:
    """Compute the L2 norm of one tensor: 0-d, in float32 or better, differentiable."""
    dtype = compute_dtype(tensor.dtype)
    if tensor.device.type != 'cpu' or tensor.numel() <= _ROW or tensor.dtype == torch.float64:
        return torch.linalg.vector_norm(tensor, dtype=dtype)
    # On the CPU torch sums a whole tensor sequentially in float32, with an error of 4e-4 for two million equal
    # elements. Row by row the error is 1e-7, at the same speed.
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)  # a view, where flattening would copy
    flat = tensor.reshape(-1)
    whole = flat.numel() // _ROW * _ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1, dtype=dtype)
    rest = torch.linalg.vector_norm(flat[whole:], dtype=dtype).reshape(1)
    return torch.linalg.vector_norm(torch.cat([rows, rest]), dtype=torch.float64)


@torch.no_grad()
def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all tensors in place by a 0-d tensor, without a host synchronisation."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in map(local_part, tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for (device, dtype), group in groups.items():
        torch._foreach_mul_(group, factor.to(device, compute_dtype(dtype)))


def norm_fixing_parameters(
    model: nn.Module, *, fc: bool = True, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the trainable weights of all convolutions and linear layers, by name, each tensor once (W of A.3).

    Args:
        model (nn.Module): The model.
        fc (bool): Whether linear layers belong to the set; ``False`` for Algorithm 1. Defaults to True.
        exclude (Sequence[str]): Regular expressions, searched for in the parameter names; matching weights are left
            out. Defaults to none.

    Raises:
        ValueError: If a pattern matches none of the weights.
    """
    candidates: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        weight = module._parameters.get('weight') if is_fixable_weight(module, 'weight', fc=fc) else None
        if weight is not None and weight.requires_grad:
            candidates[f'{prefix}.weight' if prefix else 'weight'] = weight
    excluded: set[str] = set()
    for pattern in exclude:
        matches = {name for name in candidates if re.search(pattern, name)}
        if not matches:
            raise ValueError(
                f'exclude: the pattern {pattern!r} matches none of the {len(candidates)} trainable '
                f'conv and FC weights ({", ".join([*candidates][:3])}, ...)'
            )
        excluded |= matches
    out = {id(candidates[name]) for name in excluded}  # a shared tensor leaves with either name
    unique: dict[int, str] = {}
    for name, weight in candidates.items():
        if id(weight) not in out:
            unique.setdefault(id(weight), name)
    return {name: candidates[name] for name in unique.values()}


def flag_set(optimizer: Optimizer, params: Iterable[Tensor]) -> None:
    """Flag ``params`` in the groups of ``optimizer`` as the norm-fixing set.

    Raises:
        ValueError: If a tensor is not in the optimizer, or if there are no tensors.
    """
    in_set = {id(p) for p in params}
    if not in_set:
        raise ValueError('the norm-fixing set is empty: no trainable conv or FC weight was given')
    num_flagged = 0
    for group in optimizer.param_groups:
        positions = [i for i, p in enumerate(group['params']) if id(p) in in_set]
        num_flagged += len(positions)
        group[FLAG] = positions
    if num_flagged != len(in_set):
        raise ValueError(
            f'{len(in_set) - num_flagged} of the {len(in_set)} tensors to fix are not in the optimizer; '
            'add them to the optimizer, or leave them out of the set'
        )


def _positions(group: dict[str, Any]) -> Sequence[int]:
    flag = group.get(FLAG, ())
    return range(len(group['params'])) if flag is True else (flag or ())


def flagged(optimizer: Optimizer) -> list[Tensor]:
    """Return the tensors of the norm-fixing set, read from the groups at call time."""
    return [group['params'][i] for group in optimizer.param_groups for i in _positions(group)]


class NormFixer:
    r"""Keeps ``||W||`` of an optimizer's flagged tensors at ``||W_0||``: ``W <- W * ||W_0|| / ||W||``.

    One scalar for the whole set, so layers may trade norm. It works inside the optimizer, by step hooks, so a step
    that a loss scaler skips and a gradient accumulation without a step leave the weights unchanged. The target is
    the norm before the first step, unless one was given or loaded. Tensors without a gradient at the first step are
    unused and leave the set. Tensors frozen later stay unchanged; the others are scaled so that the norm of the whole
    set is kept.

    Args:
        target (float | str, optional): The norm to keep. ``'loaded'`` or None: the norm before the first step;
            ``'init'``: the norm at the call of :meth:`take_init_norm`, before a checkpoint is loaded. Defaults to None.

    Raises:
        ValueError: If the target is neither one of the two names nor a finite number > 0.
    """

    per = 'set'
    """The unit whose norm is kept: the set, with all tensors as one vector."""

    def __init__(self, target: float | str | None = None) -> None:
        if isinstance(target, str):
            if target not in ('init', 'loaded'):
                raise ValueError(f"target must be 'init', 'loaded' or a number, got {target!r}")
        elif target is not None and not (math.isfinite(target) and target > 0):
            raise ValueError(f'target must be finite and > 0 (None = norm at the start), got {target!r}')
        self.wants_init_norm = target == 'init'
        self.target = None if isinstance(target, str) else target
        self._size: tuple[int, int] | None = None
        self._optimizer: Optimizer | None = None
        self._handles: list[Any] = []

    def install(self, optimizer: Optimizer) -> None:
        """Hook into ``optimizer.step``; does nothing if the hooks are there already."""
        if self._optimizer is optimizer:
            return
        self.remove()
        self._handles = add_step_hooks(optimizer, self._capture, self._hold)
        self._optimizer = optimizer

    def take_init_norm(self, tensors: Sequence[Tensor]) -> None:
        """Take the present norm of these weights as the target, with ``target='init'``. Later calls do nothing.

        Weights that turn out to be unused at the first step count too.
        """
        if self.wants_init_norm:
            self.target = starting_norm(tensors)
            self.wants_init_norm = False

    def remove(self) -> None:
        """Remove the hooks from the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer = [], None

    def state_dict(self) -> dict[str, Any]:
        """Return the target, the unit whose norm it is, and the number of tensors and of elements in the set."""
        return {'target': self.target, 'per': self.per, 'size': self._size}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer: Optimizer) -> None:
        """Load the target of an earlier run.

        Raises:
            ValueError: If the number of flagged tensors of ``optimizer`` is not the one in the state, or if the earlier
                run kept the norm of another unit.
        """
        per = state_dict.get('per', 'set')  # missing in states of early versions
        if per != self.per:
            raise ValueError(
                f'the checkpoint comes from a run that kept the norm per {per}, this one keeps it per {self.per}. '
                'Resume with the optim wrapper of that run, or start a new one from its weights with load_from'
            )
        size = None if state_dict['size'] is None else tuple(state_dict['size'])
        if size is not None and size != _size(flagged(optimizer)):
            raise ValueError(
                'the norm-fixing set has changed: the checkpoint has {} tensors with {} elements, this run has {} '
                'with {}. Resume with the config of that run, or start a new one from its weights by load_from'.format(
                    *size, *_size(flagged(optimizer))
                )
            )
        self.target, self._size, self.wants_init_norm = state_dict['target'], size, False

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of an optimizer lose its step hooks, so a copied NormFixer is not installed.
        return {**self.__dict__, '_optimizer': None, '_handles': []}

    def _capture(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._size is not None:
            return
        if all(group.get(FLAG) == [] for group in optimizer.param_groups):
            return  # a step of another group: DeepSpeed ZeRO steps them one by one
        for group in optimizer.param_groups:
            used = [i for i in _positions(group) if _is_used(group['params'][i])]
            if len(used) < len(_positions(group)):
                group[FLAG] = used
        tensors = flagged(optimizer)
        self._take_targets(tensors)
        self._size = _size(tensors)

    def _take_targets(self, tensors: Sequence[Tensor]) -> None:
        norm = starting_norm(tensors)
        self.target = norm if self.target is None else self.target

    @torch.no_grad()
    def _hold(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        tensors = flagged(optimizer)
        free = [t for t in tensors if t.requires_grad]
        if not free:
            return
        target: Any = self.target
        if len(free) < len(tensors):
            frozen = global_norm([t for t in tensors if not t.requires_grad])
            target = (target**2 - frozen.square()).clamp(min=0).sqrt()
        scale_unless_skipped_(free, target / global_norm(free), optimizer)


@torch.no_grad()
def scale_unless_skipped_(tensors: Sequence[Tensor], factor: Tensor, optimizer: Optimizer) -> None:
    """Multiply tensors in place by a 0-d tensor after a step, unless a loss scaler made ``optimizer`` skip it."""
    found_inf = getattr(optimizer, 'found_inf', None)  # a fused optimizer skips the step by itself
    if found_inf is not None:
        factor = torch.where(found_inf.to(factor.device) > 0, torch.ones_like(factor), factor)
    scale_(tensors, factor)


def starting_norm(tensors: Sequence[Tensor]) -> float:
    """Compute the joint norm of weights before the first step: the only host synchronisation, once per run.

    Raises:
        ValueError: If it is not finite and > 0.
    """
    norm = global_norm(tensors).item()
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError(
            f'the norm of the {len(tensors)} weights to fix must be finite and > 0 before the first step, '
            f'got {norm}; check the initialisation or the checkpoint that was loaded'
        )
    return norm


def add_step_hooks(
    optimizer: Optimizer,
    before: Callable[[Optimizer, Any, Any], None],
    after: Callable[[Optimizer, Any, Any], None] | None = None,
) -> list[Any]:
    """Call ``before`` and ``after`` around every call of ``optimizer.step``; return handles to remove them."""
    if _TORCH_VERSION < (2, 4):
        _keep_step_hooks(optimizer)
    handles: list[Any] = [optimizer.register_step_pre_hook(before)]
    return handles if after is None else [*handles, optimizer.register_step_post_hook(after)]


_TORCH_VERSION = tuple(int(part) for part in torch.__version__.split('.')[:2])


def _keep_step_hooks(optimizer: Optimizer) -> None:
    """Make ``optimizer.step`` call its hooks permanently.

    Seen with torch 2.1: the first ``torch.compile`` of a process silently removes the calls of the step hooks from all
    optimizer classes. A ``step`` attribute of the instance is not affected.
    """
    import torch._dynamo  # imported late: it takes a second, and newer versions of torch do not need it

    if 'step' in vars(optimizer):  # a learning rate scheduler of torch has wrapped it, with its hooks
        return
    step = type(optimizer).step
    calls_hooks = step.__code__ is Optimizer.profile_hook_step(step).__code__
    inner = step.__wrapped__ if calls_hooks else step  # type: ignore[attr-defined]
    # Disabled for the compiler, which can only trace a step of the class.
    hooked = torch._dynamo.disable(Optimizer.profile_hook_step(inner))
    optimizer.step = types.MethodType(hooked, optimizer)  # type: ignore[method-assign]


def _is_used(tensor: Tensor) -> bool:
    # A process that holds no part of a sharded tensor has no gradient for it.
    return tensor.requires_grad and (tensor.grad is not None or tensor.numel() == 0)


def _size(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Count the tensors and their elements, over all processes that share them."""
    elements: dict[Hashable, int] = {}
    for tensor in tensors:
        elements[shard_key(tensor)] = elements.get(shard_key(tensor), 0) + local_part(tensor).numel()
    sums = [sum_over_shards_(torch.tensor(number, device=tensors[0].device), key) for key, number in elements.items()]
    return len(tensors), sum(int(number) for number in sums)


def fix_norm(
    optimizer: Optimizer,
    *,
    params: Iterable[Tensor] | None = None,
    model: nn.Module | None = None,
    exclude: Sequence[str] = (),
    target: float | str | None = None,
) -> NormFixer:
    """Add norm fixing to an optimizer of a plain PyTorch loop; every later ``optimizer.step()`` restores the norm.

    Args:
        optimizer (Optimizer): Any optimizer with torch's interface; with DeepSpeed, ZeRO-1 or 2 and the set as a
            separate parameter group.
        params (Iterable[Tensor], optional): The norm-fixing set.
        model (nn.Module, optional): Instead of ``params``: all its conv and linear weights.
        exclude (Sequence[str]): With ``model``, regular expressions of weight names to leave out.
        target (float | str, optional): The norm to keep; ``'init'`` for the present norm, ``'loaded'`` or None for
            the norm before the first step. Defaults to None.

    Returns:
        NormFixer: Holds the target; save its ``state_dict()`` along with the optimizer's.

    Raises:
        ValueError: If the set is empty or not wholly in the optimizer, if both or neither of ``params`` and ``model``
            are given, or if sharding hides the weights (FSDP without original parameters, DeepSpeed ZeRO-3).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        >>> norm_fixer = fix_norm(optimizer, model=model)
        >>> model(torch.randn(2, 1, 8, 8)).square().mean().backward()
        >>> optimizer.step()
        >>> abs(model[0].weight.norm().item() / norm_fixer.target - 1) < 1e-6
        True
    """
    if (params is None) == (model is None):
        raise ValueError('give either params=... or model=...')
    if params is None:
        assert model is not None
        mark_shards(model)
        params = norm_fixing_parameters(model, exclude=exclude).values()
    optimizer, params = zero_partition(optimizer, params)
    flag_set(optimizer, params)
    warn_of_decay(optimizer)
    norm_fixer = NormFixer(target)
    norm_fixer.take_init_norm(params)
    norm_fixer.install(optimizer)
    return norm_fixer


def warn_of_decay(optimizer: Optimizer) -> None:
    """Warn if a group with tensors of the norm-fixing set has weight decay, which FixNorm drops."""
    decays = {g.get('weight_decay', 0) for g in optimizer.param_groups if len(_positions(g))} - {0}
    if decays:
        warnings.warn(
            f'weights whose norm is fixed have weight_decay {sorted(decays)}: it no longer limits their norm and '
            'only shrinks the step; FixNorm trains with weight_decay=0',
            stacklevel=3,
        )
