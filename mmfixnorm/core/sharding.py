"""Weights of which each process holds a part only: FSDP with original parameters, DTensor (FSDP2), DeepSpeed ZeRO."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Hashable, Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = [
    'local_part',
    'mark_shards',
    'shard_key',
    'sum_over_shards_',
    'whole_parameters',
    'zero_partition',
]

_GROUP = '_fix_norm_shard_group'


def mark_shards(model: nn.Module) -> None:
    """Note on every parameter that FSDP has sharded over which process group it is; DTensors say so themselves.

    Does nothing for a model without FSDP modules (the ones of ``fully_shard`` are none).

    Args:
        model (nn.Module): The whole model, wrapped.

    Raises:
        ValueError: If FSDP has flattened the parameters into one: ``use_orig_params=False``.
    """
    for module in _fsdp_modules(model):  # outer ones first: the inner mark is the one that stays
        for name, param in module.named_parameters():
            if name.rpartition('.')[2] == '_flat_param':
                raise ValueError(
                    'FSDP with use_orig_params=False keeps all parameters in one flat tensor, in which the weights of '
                    'the norm-fixing set cannot be told from the rest; set use_orig_params=True (in a config: '
                    "strategy.model_wrapper=dict(type='MMFullyShardedDataParallel', use_orig_params=True))"
                )
            sharded = getattr(param, '_fsdp_flattened', False) and module.sharding_strategy.name != 'NO_SHARD'
            setattr(param, _GROUP, module.process_group if sharded else None)


def whole_parameters(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """A context in which the parameters of FSDP modules are whole; what is written to them stays."""
    if not _fsdp_modules(model):
        return contextlib.nullcontext()
    return _fsdp_class().summon_full_params(model)


def shard_key(tensor: Tensor) -> Hashable:
    """What tensors that are sharded alike have in common; None for a tensor that this process holds whole.

    Raises:
        ValueError: If the tensor is a shard over an unknown group.
    """
    mesh = getattr(tensor, 'device_mesh', None)
    if mesh is not None:
        return mesh, tuple(tensor.placements)  # type: ignore[attr-defined]
    if getattr(tensor, '_fsdp_flattened', False) and not hasattr(tensor, _GROUP):
        raise ValueError(
            'a weight of the norm-fixing set is a shard of FSDP, and nothing says over which processes; '
            'give fix_norm the model (model=...), or call mark_shards(model) first'
        )
    return getattr(tensor, _GROUP, None)


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, without a copy."""
    return tensor.to_local() if hasattr(tensor, 'to_local') else tensor


def sum_over_shards_(value: Tensor, key: Hashable) -> Tensor:
    """Add up a value of each process, in place, over those that share tensors of this :func:`shard_key`."""
    for group in _groups(key):
        dist.all_reduce(value, group=group)
    return value


def zero_partition(optimizer: Any, params: Iterable[Tensor]) -> tuple[Any, list[Tensor]]:
    """What DeepSpeed's ZeRO-1 or 2 trains in place of ``params``: its base optimizer, and one flat partition in it.

    ZeRO keeps a float32 copy of each parameter group, cut into one partition per process and padded with zeros. It
    calls the step of the base optimizer once for every group, and then overwrites the weights of the model. So the
    norm of a group is to be kept in the partitions, and a set must be a group. Anything else comes back as it is.

    Raises:
        ValueError: If it is another optimizer of DeepSpeed that keeps the weights (ZeRO-3, half precision without
            ZeRO), if it offloads to the CPU, or if ``params`` are not exactly one of its groups.
    """
    params = list(params)
    if type(optimizer).__module__.partition('.')[0] != 'deepspeed' or isinstance(optimizer, Optimizer):
        return optimizer, params
    if type(optimizer).__name__ != 'DeepSpeedZeroOptimizer' or optimizer.cpu_offload:
        offload = ' with offload_optimizer' if getattr(optimizer, 'cpu_offload', False) else ''
        raise ValueError(
            f'norm fixing does not work with {type(optimizer).__name__} of DeepSpeed{offload}: it steps parts of the '
            'set at a time, or keeps the weights where they cannot be reached. Set zero_optimization.stage to 1 or 2 '
            'without offload_optimizer, or use FSDP with use_orig_params=True, or DDP'
        )
    in_set = {id(p) for p in params}
    for number, group in enumerate(optimizer.bit16_groups):
        if {id(p) for p in group} == in_set:
            partition = optimizer.single_partition_of_fp32_groups[number]
            setattr(partition, _GROUP, optimizer.real_dp_process_group[number])
            return optimizer.optimizer, [partition]
    raise ValueError(
        f'DeepSpeed ZeRO flattens each parameter group, and none of its {len(optimizer.bit16_groups)} groups is '
        f'exactly the norm-fixing set of {len(in_set)} tensors; give the optimizer the set as one group of its own: '
        '[dict(params=in_set), dict(params=others)]'
    )


def _groups(key: Any) -> Iterable[dist.ProcessGroup]:
    if not isinstance(key, tuple):
        return () if key is None else (key,)
    mesh, placements = key
    # Also for _StridedShard, which is no Shard in every version.
    return [mesh.get_group(dim) for dim, placement in enumerate(placements) if not placement.is_replicate()]


def _fsdp_class() -> Any:
    # Only if somebody has imported it: it takes a second.
    return getattr(sys.modules.get('torch.distributed.fsdp'), 'FullyShardedDataParallel', None)


def _fsdp_modules(model: nn.Module) -> list[Any]:
    wrapper = _fsdp_class()
    return [] if wrapper is None else [module for module in model.modules() if isinstance(module, wrapper)]
