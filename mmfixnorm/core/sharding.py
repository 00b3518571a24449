"""Sharded weights, one part on each process: FSDP with original parameters, DTensor (FSDP2), DeepSpeed ZeRO."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = [
    'local_part',
    'mark_shards',
    'shard_key',
    'sum_over_processes',
    'sum_over_shards_',
    'whole_parameters',
    'zero_partition',
]

_GROUP = '_fix_norm_shard_group'


def mark_shards(model: nn.Module) -> None:
    """Mark every parameter that FSDP has sharded with its process group; DTensors carry this information themselves.

    Does nothing for a model without FSDP modules; ``fully_shard`` makes none.

    Args:
        model (nn.Module): The whole model, wrapped.

    Raises:
        ValueError: If FSDP has flattened the parameters into one: ``use_orig_params=False``.
    """
    for module in _fsdp_modules(model):  # outer modules first, so that the mark of the innermost one remains
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
    """Return a context in which the parameters of FSDP modules are whole; writes to them persist."""
    if not _fsdp_modules(model):
        return contextlib.nullcontext()
    return _fsdp_class().summon_full_params(model)


def shard_key(tensor: Tensor) -> Hashable:
    """Return a key that equally sharded tensors share; None for a tensor that this process holds whole.

    Raises:
        ValueError: If the tensor is a shard over an unknown group.
    """
    mesh = getattr(tensor, 'device_mesh', None)
    if mesh is not None:
        return mesh, tuple(tensor.placements)  # type: ignore[attr-defined]
    if getattr(tensor, '_fsdp_flattened', False) and not hasattr(tensor, _GROUP):
        raise ValueError(
            'a weight of the norm-fixing set is a shard of FSDP over unknown processes; '
            'pass the model to fix_norm (model=...), or call mark_shards(model) first'
        )
    return getattr(tensor, _GROUP, None)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, without a copy."""
    return tensor.to_local() if hasattr(tensor, 'to_local') else tensor


def sum_over_shards_(value: Tensor, key: Hashable) -> Tensor:
    """Sum a value, in place, over the processes that share tensors with this :func:`shard_key`."""
    for group in _groups(key):
        dist.all_reduce(value, group=group)
    return value


def sum_over_processes(tensors: Sequence[Tensor], columns: Sequence[Tensor]) -> list[Tensor]:
    """Sum the column of each tensor over the processes that share it, in one all-reduce for each way of sharding.

    Args:
        tensors (Sequence[Tensor]): The same ones, in the same order, on all processes.
        columns (Sequence[Tensor]): For each tensor what this process has summed over its part: ``(n, 1)``, on one
            device.
    """
    sums = [*columns]
    keys = [shard_key(tensor) for tensor in tensors]
    for key in dict.fromkeys(keys):
        if key is None:
            continue
        alike = [i for i, other in enumerate(keys) if other == key]
        total = sum_over_shards_(torch.cat([columns[i] for i in alike], dim=1), key)
        for i, column in zip(alike, total.split(1, dim=1), strict=True):
            sums[i] = column
    return sums


def zero_partition(optimizer: Any, params: Iterable[Tensor]) -> tuple[Any, list[Tensor]]:
    """Find what DeepSpeed ZeRO-1 or 2 trains in place of ``params``: its base optimizer and one flat partition.

    ZeRO keeps a float32 copy of each parameter group, split into one partition per process and padded with zeros. It
    calls the step of the base optimizer once for every group, and then overwrites the weights of the model. Hence the
    norm must be kept in the partitions, and the set must be a group. Other optimizers are returned unchanged, with
    ``params`` as a list.

    Raises:
        ValueError: If it is another DeepSpeed optimizer that owns the weights (ZeRO-3, half precision without ZeRO), if
            it offloads to the CPU, or if ``params`` are not exactly one of its groups.
    """
    params = list(params)
    if type(optimizer).__module__.partition('.')[0] != 'deepspeed' or isinstance(optimizer, Optimizer):
        return optimizer, params
    if type(optimizer).__name__ != 'DeepSpeedZeroOptimizer' or optimizer.cpu_offload:
        offload = ' with offload_optimizer' if getattr(optimizer, 'cpu_offload', False) else ''
        raise ValueError(
            f'norm fixing does not work with {type(optimizer).__name__} of DeepSpeed{offload}: it steps only a part '
            'of the set at a time, or keeps the weights out of reach. Set zero_optimization.stage to 1 or 2 '
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
        f'exactly the norm-fixing set of {len(in_set)} tensors; pass the set to the optimizer as a separate group: '
        '[dict(params=in_set), dict(params=others)]'
    )


def _groups(key: Any) -> Iterable[dist.ProcessGroup]:
    if not isinstance(key, tuple):
        return () if key is None else (key,)
    mesh, placements = key
    # Also covers _StridedShard, which is not a Shard in every version.
    return [mesh.get_group(dim) for dim, placement in enumerate(placements) if not placement.is_replicate()]


def _fsdp_class() -> Any:
    # Looked up, not imported: the import takes a second.
    return getattr(sys.modules.get('torch.distributed.fsdp'), 'FullyShardedDataParallel', None)


def _fsdp_modules(model: nn.Module) -> list[Any]:
    wrapper = _fsdp_class()
    return [] if wrapper is None else [module for module in model.modules() if isinstance(module, wrapper)]
