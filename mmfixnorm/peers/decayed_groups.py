"""FixNorm's parameter groups for optimizers that decay the scale-invariant weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmfixnorm.core.membership import FLAG, WAITING
from mmfixnorm.engine.optim_wrapper_constructor import FixNormOptimWrapperConstructor
from mmfixnorm.errors import ConfigError

__all__ = ['DecayedGroupsOptimWrapperConstructor']

_KINDS = ('norm_fixing', 'fc', 'no_decay', 'others')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DecayedGroupsOptimWrapperConstructor(FixNormOptimWrapperConstructor):
    """The groups of :class:`FixNormOptimWrapperConstructor` for a method that decays weights, with options for each.

    ``norm_fixing``, convolutions and linear layers, has the optimizer's ``weight_decay``; with ``lambda_fc`` linear
    layers are in ``fc`` and decay by that. ``no_decay``, norm layers and parameters of at most one dimension, does not
    decay. No group is flagged for norm fixing.

    Args:
        optim_wrapper_cfg (dict): Config of the wrapper, with ``optimizer``.
        paramwise_cfg (dict, optional): As in the base class, and

            - ``groups`` (dict): ``{name of a group: options}``. ``lr_mult`` multiplies the learning rate of the group;
              the optimizer gets every other option with the group, such as ``lars_exclude`` or ``normalized``.

    Raises:
        ConfigError: As in the base class, or if ``groups`` names a group that does not exist or is empty in this model,
            or ``lr_mult`` is not a finite number >= 0 or has no ``lr`` to multiply.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     constructor='DecayedGroupsOptimWrapperConstructor',
        ...     optimizer=dict(type='LARS', lr=8.0, momentum=0.9, weight_decay=1e-4),
        ...     paramwise_cfg=dict(groups=dict(no_decay=dict(lr_mult=0.025, lars_exclude=True))))
    """

    options: ClassVar[tuple[str, ...]] = (*FixNormOptimWrapperConstructor.options, 'groups')

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        self._options_of = self.paramwise_cfg.get('groups', {})
        key = 'optim_wrapper.paramwise_cfg.groups'
        if not isinstance(self._options_of, Mapping):
            raise ConfigError(f'{key} must be a dict of group -> options, got {self._options_of!r}')
        for kind, options in self._options_of.items():
            if kind not in _KINDS:
                raise ConfigError(f'{key}: there is no group {kind!r}; the groups are {list(_KINDS)}')
            lr_mult = options.get('lr_mult', 1)
            if isinstance(lr_mult, bool) or not isinstance(lr_mult, (int, float)) or not 0 <= lr_mult < float('inf'):
                raise ConfigError(f'{key}.{kind}.lr_mult must be a finite number >= 0, got {lr_mult!r}')
            if lr_mult != 1 and self.base_lr is None:
                raise ConfigError(f'{key}.{kind}.lr_mult needs a number as optim_wrapper.optimizer.lr, got None')

    def _sort(
        self, module: nn.Module, in_set: set[int], *, as_first: bool = False
    ) -> dict[tuple[str, float], dict[str, Any]]:
        groups = super()._sort(module, in_set, as_first=as_first)
        empty = sorted(set(self._options_of) - {kind for kind, _ in groups})
        if empty:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.groups: no parameter of this model is in {empty}; it has the groups '
                f'{[*dict.fromkeys(kind for kind, _ in groups)]}'
            )
        for (kind, _), group in groups.items():
            if kind == 'norm_fixing':
                for key in (FLAG, WAITING, 'weight_decay'):
                    group.pop(key, None)
            options = dict(self._options_of.get(kind, {}))
            lr_mult = options.pop('lr_mult', 1)
            if lr_mult != 1:
                group['lr'] = group.get('lr', self.base_lr) * lr_mult
            group.update(options)
        return groups
