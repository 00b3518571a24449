"""Requirements of several peers on the parameter groups."""

from __future__ import annotations

from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, WAITING, flagged, positions
from mmfixnorm.errors import ConfigError

__all__ = ['require_flagged_groups', 'require_no_decay']

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


def require_no_decay(optimizer: Optimizer, peer: str) -> None:
    """Refuse weight decay on the flagged weights.

    Raises:
        ConfigError: If a group with such a weight decays it.
    """
    in_set = {id(tensor) for tensor in flagged(optimizer)}
    decaying = [group for group in optimizer.param_groups if any(id(p) in in_set for p in group['params'])]
    decays = {group.get('weight_decay', 0) for group in decaying} - {0}
    if decays:
        raise ConfigError(
            f'{peer} replaces weight decay on its weights, which have weight_decay {sorted(decays)}: set '
            f'{_CONSTRUCTOR}, or optim_wrapper.optimizer.weight_decay=0'
        )
