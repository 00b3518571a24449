"""Requirements of several peers on the parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.optim import BaseOptimWrapper
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, WAITING, places, positions
from mmfixnorm.core.norm_fixing import NormFixer
from mmfixnorm.engine.optim_wrapper import NormFixingMixin
from mmfixnorm.errors import ConfigError

__all__ = ['refuse_norm_fixing', 'replace_norm_fixer', 'require_flagged_groups', 'require_no_decay']

_CONSTRUCTOR = "optim_wrapper.constructor='FixNormOptimWrapperConstructor'"


def require_flagged_groups(optimizer: Optimizer, peer: str, constructor: str = _CONSTRUCTOR) -> None:
    """Refuse an optimizer whose scale-invariant weights have no separate groups.

    Raises:
        ConfigError: If no group is flagged, or a flagged group contains other tensors too.
    """
    groups = [group for group in optimizer.param_groups if group.get(FLAG)]
    mixed = [g for g in groups if len(positions(g, FLAG)) + len(positions(g, WAITING)) != len(g['params'])]
    if not groups or mixed:
        raise ConfigError(f'{peer} needs the scale-invariant weights in separate groups: set {constructor}')


def refuse_norm_fixing(optimizer: BaseOptimWrapper | Optimizer, peer: str) -> None:
    """Refuse an optimizer, or the optim wrapper around it, that fixes the norm of the weights.

    Raises:
        ConfigError: If it does.
    """
    hooks = getattr(optimizer, 'optimizer', optimizer)._optimizer_step_pre_hooks.values()
    is_hooked = any(isinstance(getattr(hook, '__self__', None), NormFixer) for hook in hooks)
    if is_hooked or isinstance(optimizer, NormFixingMixin):
        raise ConfigError(
            f"{peer} does not work with norm fixing: set optim_wrapper.type='OptimWrapper' (or 'AmpOptimWrapper'), and "
            'remove FixNormHook'
        )


def replace_norm_fixer(
    optim_wrapper: NormFixingMixin, norm_fixer: NormFixer, keeps: str, options: Mapping[str, Any]
) -> None:
    """Give an optim wrapper that was just built the norm fixer of a peer.

    Args:
        optim_wrapper (NormFixingMixin): The wrapper.
        norm_fixer (NormFixer): The peer's.
        keeps (str): What the peer keeps, for the message.
        options (Mapping[str, Any]): The arguments of the wrapper.

    Raises:
        ConfigError: If the arguments ask for another norm fixer.
    """
    if options.get('target') is not None or type(optim_wrapper.norm_fixer) is not NormFixer:
        raise ConfigError(
            f"optim_wrapper: {type(optim_wrapper).__name__} keeps {keeps}; it takes neither target nor update='angle'"
        )
    norm_fixer.report = optim_wrapper.norm_fixer.report
    optim_wrapper.norm_fixer = norm_fixer


def require_no_decay(optimizer: Optimizer, peer: str) -> None:
    """Refuse weight decay on the flagged weights.

    Raises:
        ConfigError: If a group with such a weight decays it.
    """
    in_set = {id(tensor) for tensor in places(optimizer, FLAG, WAITING).values()}
    decaying = [group for group in optimizer.param_groups if any(id(p) in in_set for p in group['params'])]
    decays = {group.get('weight_decay', 0) for group in decaying} - {0}
    if decays:
        raise ConfigError(
            f'{peer} replaces weight decay on its weights, which have weight_decay {sorted(decays)}: set '
            f'{_CONSTRUCTOR}, or optim_wrapper.optimizer.weight_decay=0'
        )
