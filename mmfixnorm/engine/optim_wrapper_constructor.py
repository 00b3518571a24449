"""Sorts the parameters of a model into a few groups, one of them the norm-fixing set."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch.nn.parameter import is_lazy

from mmfixnorm.core.layer_kinds import is_linear, is_norm_layer
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.membership import flag_group
from mmfixnorm.engine.lr_factors import check_lr_constructor, lr_factors
from mmfixnorm.engine.optim_wrapper import NormFixingMixin
from mmfixnorm.engine.start import choose_set, prepare_model, warn_of_set
from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

OTHER_LR = 20.0
"""Learning rate of the parameters outside the set, in multiples of that of the set, where ``other_lr`` is not set."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FixNormOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimizer with few groups, so that its fused kernels get long lists of tensors.

    The groups, without empty ones:

    - ``norm_fixing``: weights of convolutions and linear layers, flagged, no weight decay;
    - ``fc``: with ``lambda_fc`` (Algorithm 1) the weights of linear layers, which then are not in the set;
    - ``no_decay``: norm layers, parameters of at most one dimension (biases, scales, every ``g``), and what else has
      ``decay_mult=0`` outside the set;
    - ``others``: the rest (embeddings, excluded weights), with the optimizer's ``weight_decay``.

    Each group is split further by the learning rates of ``custom_keys`` and ``lr_constructor``. Frozen parameters are
    in their groups too, so that they train when they are thawed.

    Args:
        optim_wrapper_cfg (dict): Config of the wrapper, with ``optimizer``.
        paramwise_cfg (dict, optional): Any of

            - ``lambda_fc`` (float): Algorithm 1: weight decay of the linear layers.
            - ``exclude`` (list[str]): Regular expressions of weight names to leave out of the set.
            - ``custom_keys`` (dict): ``{part of a name: dict(lr_mult=..., decay_mult=...)}``, the longest match applies
              alone. ``decay_mult`` is 1 or 0: 0 takes weights outside the set out of the optimizer's decay.
            - ``lr_constructor`` (dict): ``dict(type=..., **options)``: another constructor, such as mmpretrain's
              ``LearningRateDecayOptimWrapperConstructor``, with the options that would be in its ``paramwise_cfg``.
              Each parameter gets the learning rate that it has there; the set, the decay and the groups stay as
              they are here. ``lr_mult`` of ``custom_keys`` multiplies it.
            - ``norm_decay_mult=0`` and ``bias_decay_mult=0``: accepted, as this constructor never decays either.

    Raises:
        ConfigError: If an option is unknown or out of range, if the norm-fixing set is empty, if ``lr_constructor``
            does not fit the model, or if it or ``lr_mult`` has no ``lr`` to multiply.

    Example of a config:
        >>> optim_wrapper = dict(
        ...     type='FixNormOptimWrapper',
        ...     constructor='FixNormOptimWrapperConstructor',
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9, nesterov=True),
        ...     paramwise_cfg=dict(
        ...         lr_constructor=dict(type='LearningRateDecayOptimWrapperConstructor', layer_decay_rate=0.75)))
    """

    options: ClassVar[tuple[str, ...]] = (
        'lambda_fc',
        'exclude',
        'custom_keys',
        'lr_constructor',
        'norm_decay_mult',
        'bias_decay_mult',
    )
    """The keys of ``paramwise_cfg``."""
    takes_lr_constructor = True
    """Marks the constructors whose ``paramwise_cfg`` has ``lr_constructor``, which cannot be one of them."""

    paramwise_cfg: dict[str, Any]
    _first_groups: list[dict[str, Any]] | None = None
    _lr_factors: Mapping[int, float] = MappingProxyType({})

    def __call__(self, model: nn.Module) -> OptimWrapper:
        inner = getattr(model, 'module', model)
        # FlexibleRunner builds the optimizer after the initialisation, the Runner before it.
        prepare_model(model, initialised=getattr(inner, 'is_init', False))
        optim_wrapper = super().__call__(model)
        warn_of_set(inner, optim_wrapper.optimizer)
        if isinstance(optim_wrapper, NormFixingMixin):
            optim_wrapper.attach(inner, self._first_groups)
        return optim_wrapper

    def _validate_cfg(self) -> None:
        cfg = self.paramwise_cfg
        if not isinstance(cfg, dict):
            raise TypeError(f'paramwise_cfg should be None or a dict, but got {type(cfg)}')
        unknown = sorted(set(cfg) - set(self.options))
        if unknown:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg: {type(self).__name__} does not know {unknown}; it takes '
                f'{list(self.options)}. Replace an inherited one with paramwise_cfg=dict(_delete_=True, ...)'
            )
        for key in ('norm_decay_mult', 'bias_decay_mult'):
            if cfg.get(key, 0) != 0:
                raise ConfigError(
                    f'optim_wrapper.paramwise_cfg.{key} must be 0 (FixNorm decays neither), got {cfg[key]!r}'
                )
        lambda_fc = cfg.get('lambda_fc')
        if lambda_fc is not None and not 0 <= lambda_fc < float('inf'):
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.lambda_fc must be >= 0 (None = FC weights are fixed too), '
                f'got {lambda_fc!r}'
            )
        # With options for each group the set may decay, which `decay_mult` would not change.
        taken = ['lr_mult'] if 'groups' in self.options else ['lr_mult', 'decay_mult']
        for key, options in cfg.get('custom_keys', {}).items():
            of_key = f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}]'
            if set(options) - {*taken}:
                raise ConfigError(f'{of_key}: only {" and ".join(taken)} is supported, got {dict(options)}')
            if options.get('decay_mult', 1) not in (0, 1):
                raise ConfigError(f'{of_key}.decay_mult must be 0 or 1, got {options["decay_mult"]!r}')
        if any('lr_mult' in options for options in cfg.get('custom_keys', {}).values()) and self.base_lr is None:
            raise ConfigError(
                'optim_wrapper.paramwise_cfg.custom_keys: '
                'lr_mult needs a number as optim_wrapper.optimizer.lr, got None'
            )
        if cfg.get('lr_constructor') is not None:
            check_lr_constructor(cfg['lr_constructor'])
            if not self.base_lr:
                raise ConfigError(
                    'optim_wrapper.paramwise_cfg.lr_constructor: needs a number > 0 as optim_wrapper.optimizer.lr, '
                    f'got {self.base_lr!r}'
                )
        self._other_lr = self._checked_other_lr()
        # The base class calls add_params only if this is not empty.
        self.paramwise_cfg = {'lambda_fc': None, **cfg}

    def _checked_other_lr(self) -> float:
        """Return the factor between the learning rate of the parameters outside the set and that of the set."""
        cfg = self.optim_wrapper_cfg
        wrapper = cfg.get('type')
        wrapper = OPTIM_WRAPPERS.get(wrapper) if isinstance(wrapper, str) else wrapper
        is_relative = cfg.get('update') == 'angle' or getattr(wrapper, 'relative_lr', False)
        other_lr = self.optim_wrapper_cfg.get('other_lr')
        if not is_relative:
            if other_lr is not None:
                raise ConfigError(
                    "optim_wrapper.other_lr: is for update='angle' and for wrappers whose learning rate is a share of "
                    f'the norm, got {other_lr!r} without either'
                )
            return 1.0
        if self.base_lr is None:
            raise ConfigError(
                "optim_wrapper.optimizer.lr: must be a number, with update='angle' the angle in radians, got None"
            )
        if cfg.get('update') == 'angle' and not 0 <= self.base_lr <= math.pi:
            raise ConfigError(
                "optim_wrapper.optimizer.lr: with update='angle' it is an angle from 0 to pi, in radians, got "
                f'{self.base_lr!r}; usual angles are near 0.02'
            )
        if other_lr is None:
            if (kind := type_name(self.optimizer_cfg['type'], OPTIMIZERS)) != 'SGD':
                _warn(
                    f'optim_wrapper.other_lr: is not set, so {kind} trains all parameters outside the set with '
                    f'{OTHER_LR:g} times the learning rate of the set, {OTHER_LR * self.base_lr:g}, as is right for '
                    'SGD; for another optimizer, set what `mmfixnorm convert --update angle` writes for a plain config'
                )
            return OTHER_LR
        if isinstance(other_lr, bool) or not isinstance(other_lr, (int, float)) or not 0 <= other_lr < float('inf'):
            raise ConfigError(f'optim_wrapper.other_lr: must be a number >= 0, got {other_lr!r}')
        return float(other_lr)

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', is_dcn_module: Any = None
    ) -> None:
        """Append the groups for all parameters of ``module`` to ``params``."""
        in_set = choose_set(
            module,
            fc=self.paramwise_cfg['lambda_fc'] is None,
            exclude=self.paramwise_cfg.get('exclude', ()),
            named_by='optim_wrapper.paramwise_cfg',
        )
        weights = {id(weight) for weight in in_set.values()}
        if lr_constructor := self.paramwise_cfg.get('lr_constructor'):
            self._lr_factors = lr_factors(module, lr_constructor, lr=self.base_lr, weight_decay=self.base_wd)
        groups = self._sort(module, weights)
        _log_groups(groups)
        self._warn_of_no_effect(module, groups.values())
        params += groups.values()
        first = self._sort(module, weights, as_first=True)
        if [[*map(id, g['params'])] for g in first.values()] != [[*map(id, g['params'])] for g in params]:
            self._first_groups = [*first.values()]

    def _warn_of_no_effect(self, module: nn.Module, groups: Iterable[Mapping[str, Any]]) -> None:
        names = [name for name, _ in module.named_parameters()]
        for key in self.paramwise_cfg.get('custom_keys', {}):
            if not any(key in name for name in names):
                _warn(
                    f'optim_wrapper.paramwise_cfg.custom_keys: no parameter has {key!r} in its name: it has no effect'
                )
        if self.base_wd and all('weight_decay' in group for group in groups):
            _warn(
                f'optim_wrapper.optimizer.weight_decay={self.base_wd:g} has no effect: the set, norm layers, '
                'biases and scales are not decayed, and this model has no other parameters'
            )

    def _sort(
        self, module: nn.Module, in_set: set[int], *, as_first: bool = False
    ) -> dict[tuple[str, float], dict[str, Any]]:
        """Sort the parameters of ``module`` into groups, by kind and factor of the learning rate.

        With ``as_first`` as the first version did: without frozen parameters, and with weight decay on parameters of
        one dimension unless they are called ``bias`` or belong to a norm layer.
        """
        settings: dict[str, dict[str, Any]] = {
            'norm_fixing': {'weight_decay': 0.0},
            'fc': {'weight_decay': self.paramwise_cfg['lambda_fc']},
            'no_decay': {'weight_decay': 0.0},
            'others': {},
        }
        groups: dict[tuple[str, float], dict[str, Any]] = {}
        sorted_in: set[int] = set()
        for owner_name, owner in module.named_modules():
            for name, param in owner.named_parameters(recurse=False):
                if id(param) in sorted_in or (as_first and not param.requires_grad):
                    continue  # shared by several modules, or frozen
                sorted_in.add(id(param))
                custom = self._custom_options(f'{owner_name}.{name}')
                if id(param) in in_set:
                    kind = 'norm_fixing'
                elif custom.get('decay_mult', 1) == 0:
                    kind = 'no_decay'
                else:
                    kind = self._kind(owner, name, param, as_first=as_first)
                lr_mult = float(custom.get('lr_mult', 1.0)) * self._lr_factors.get(id(param), 1.0)
                groups.setdefault((kind, lr_mult), {'params': [], **settings[kind]})['params'].append(param)
        order = [*settings]
        groups = {key: groups[key] for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))}
        for (kind, lr_mult), group in groups.items():
            if kind == 'norm_fixing':
                flag_group(group, range(len(group['params'])))
            factor = lr_mult * (1.0 if kind == 'norm_fixing' else self._other_lr)
            if factor != 1:
                group['lr'] = self.base_lr * factor
        return groups

    def _kind(self, owner: nn.Module, name: str, param: nn.Parameter, *, as_first: bool) -> str:
        is_scale = name == 'g' and isinstance(owner, WeightNormalized)
        is_small = not as_first and not is_lazy(param) and param.ndim <= 1
        if is_norm_layer(owner) or name == 'bias' or is_scale or is_small:
            return 'no_decay'
        is_fc = is_linear(owner) and name == 'weight'
        return 'fc' if is_fc and self.paramwise_cfg['lambda_fc'] is not None else 'others'

    def _custom_options(self, name: str) -> Mapping[str, Any]:
        keys = self.paramwise_cfg.get('custom_keys', {})
        matches = sorted(key for key in keys if key in name)
        return keys[max(matches, key=len)] if matches else {}


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


def _log_groups(groups: dict[tuple[str, float], dict[str, Any]]) -> None:
    print_log(
        'FixNorm parameter groups: '
        + ', '.join(f'{kind} {_counts(group["params"], lr_mult)}' for (kind, lr_mult), group in groups.items()),
        logger='current',
    )


def _counts(params: list[nn.Parameter], lr_mult: float) -> str:
    lazy = sum(is_lazy(p) for p in params)
    frozen = sum(not p.requires_grad for p in params)
    elements = sum(p.numel() for p in params if not is_lazy(p))
    notes = [f'{elements} elements'] + [f'{n} {what}' for n, what in ((frozen, 'frozen'), (lazy, 'lazy')) if n]
    return f'{len(params)} tensors ({", ".join(notes)}{f", lr x {lr_mult:g}" if lr_mult != 1 else ""})'
