"""Norm fixing in a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mmfixnorm.core.membership import flag_set, trainable_by
from mmfixnorm.core.norm_fixing import NormFixer, norm_fixing_parameters, warn_of_decay
from mmfixnorm.core.rotation import make_norm_fixer
from mmfixnorm.core.sharding import mark_shards, zero_partition

__all__ = ['fix_norm']


def fix_norm(
    optimizer: Optimizer,
    *,
    params: Iterable[Tensor] | None = None,
    model: nn.Module | None = None,
    exclude: Sequence[str] = (),
    target: float | str | None = None,
    update: str = 'step',
    per: str | None = None,
) -> NormFixer:
    """Add norm fixing to an optimizer of a plain PyTorch loop; every later ``optimizer.step()`` restores the norm.

    It replaces the norm fixing that the optimizer has from an earlier call. Copies and pickles of an optimizer lose
    their hooks: copy the optimizer and the :class:`NormFixer` together, and ``install`` the copy of the one in the
    other.

    Args:
        optimizer (Optimizer): Any optimizer with torch's interface; with DeepSpeed, ZeRO-1 or 2 and the set as a
            separate parameter group.
        params (Iterable[Tensor], optional): The norm-fixing set.
        model (nn.Module, optional): Instead of ``params``: all its conv and linear weights. Frozen ones that are in the
            optimizer join the set when they are thawed.
        exclude (Sequence[str]): With ``model``, regular expressions of weight names to leave out.
        target (float | str, optional): The norm to keep; ``'init'`` for the present norm, ``'loaded'`` or None for
            the norm before the first step. Defaults to None.
        update (str): ``'step'``, the step that the optimizer makes, or ``'angle'``, by which the weights turn by the
            learning rate of their group, in radians; see :class:`AngleNormFixer`. Then give the other parameters a
            group of their own, with a higher learning rate. Defaults to 'step'.
        per (str, optional): With ``update='angle'``, what turns: ``'set'``, ``'layer'`` or ``'filter'``. None means
            ``'layer'``.

    Returns:
        NormFixer: Holds the target; save its ``state_dict()`` along with the optimizer's.

    Raises:
        TypeError: If ``optimizer`` is no optimizer, ``model`` no module, or ``params`` no tensors.
        ValueError: If the set is empty or not wholly in the optimizer, if both or neither of ``params`` and ``model``
            are given, ``exclude`` without ``model`` or as one string, if weights are complex or on the meta device, if
            ``target``, ``update`` or ``per`` is unknown, if a learning rate is negative with ``update='angle'``, or if
            sharding hides the weights (FSDP without original parameters, DeepSpeed ZeRO-3).

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        >>> norm_fixer = fix_norm(optimizer, model=model)
        >>> model(torch.randn(2, 1, 8, 8)).square().mean().backward()
        >>> optimizer.step()
        >>> abs(model[0].weight.norm().item() / norm_fixer.target - 1) < 1e-6
        True
    """
    _refuse_other_things(optimizer, model)
    if (params is None) == (model is None):
        raise ValueError('give either params=... or model=...')
    names: dict[int, str] = {}
    if params is not None:
        params = _tensors(params)
        if exclude:
            raise ValueError('exclude is for model=...; leave the weights out of params')
    else:
        assert model is not None
        mark_shards(model)
        names = {id(weight): name for name, weight in model.named_parameters()}
        params = trainable_by(optimizer, norm_fixing_parameters(model, exclude=exclude, frozen=True).values())
    if odd := [p for p in params if p.is_complex() or p.is_meta]:
        raise ValueError(
            f'norm fixing needs real weights in memory, got {odd[0].dtype} on {odd[0].device}; leave complex ones out '
            'of the set, and call fix_norm after a model on the meta device is materialised'
        )
    given, (optimizer, params) = optimizer, zero_partition(optimizer, params)
    if optimizer is not given and update == 'angle' and per != 'set':
        raise ValueError(
            f'per={per or "layer"!r} does not work with DeepSpeed ZeRO, which keeps the set in one flat tensor; '
            "set per='set'"
        )
    norm_fixer = make_norm_fixer(target, update, per)
    flag_set(optimizer, params, names)
    warn_of_decay(optimizer)
    if model is not None:
        norm_fixer.report.take_names(model, optimizer)
    norm_fixer.take_init_norm(params)
    norm_fixer.install(optimizer)
    return norm_fixer


def _refuse_other_things(optimizer: Any, model: Any) -> None:
    if isinstance(optimizer, (Iterable, nn.Module)):
        raise TypeError(f'optimizer must be an optimizer, got {type(optimizer).__name__}; call fix_norm once for each')
    if not (model is None or isinstance(model, nn.Module)):
        raise TypeError(f'model must be a torch.nn.Module, got {type(model).__name__}')


def _tensors(params: Any) -> list[Tensor]:
    params = [params] if isinstance(params, (Tensor, nn.Module)) else [*params]
    if odd := [p for p in params if not isinstance(p, Tensor)]:
        raise TypeError(
            f'params must be tensors, got {type(odd[0]).__name__}; write params=model.parameters() or a list of '
            'weights, or model=model for all its conv and linear weights'
        )
    return params
