"""Sorts the parameters of a model into a few groups, one of them the norm-fixing set."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmfixnorm.core.layer_kinds import is_linear, is_norm_layer
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.norm_fixing import FLAG
from mmfixnorm.engine.optim_wrapper import NormFixingMixin
from mmfixnorm.engine.start import choose_set, prepare_model, warn_of_set
from mmfixnorm.errors import ConfigError

_OPTIONS = ('lambda_fc', 'exclude', 'custom_keys', 'norm_decay_mult', 'bias_decay_mult')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FixNormOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimizer with few groups, so that its fused kernels get long lists of tensors.

    The groups, without empty ones:

    - ``norm_fixing``: weights of convolutions and linear layers, flagged, no weight decay;
    - ``fc``: with ``lambda_fc`` (Algorithm 1) the weights of linear layers, which then are not in the set;
    - ``no_decay``: biases, norm layers and every ``g``;
    - ``others``: the rest (embeddings, excluded weights), with the optimizer's ``weight_decay``.

    Each group is split further by the learning rates in ``custom_keys``. Frozen parameters are in no group.

    Args:
        optim_wrapper_cfg (dict): Config of the wrapper, with ``optimizer``.
        paramwise_cfg (dict, optional): Any of

            - ``lambda_fc`` (float): Algorithm 1: weight decay of the linear layers.
            - ``exclude`` (list[str]): Regular expressions of weight names to leave out of the set.
            - ``custom_keys`` (dict): ``{part of a name: dict(lr_mult=...)}``, the longest match applies.
            - ``norm_decay_mult=0`` and ``bias_decay_mult=0``: accepted, as this constructor never decays either.

    Raises:
        ConfigError: If an option is unknown or out of range, or if the norm-fixing set is empty.
    """

    paramwise_cfg: dict[str, Any]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        inner = getattr(model, 'module', model)
        # FlexibleRunner builds the optimizer after the initialisation, the Runner before it.
        prepare_model(model, initialised=getattr(inner, 'is_init', False))
        optim_wrapper = super().__call__(model)
        warn_of_set(inner, optim_wrapper.optimizer)
        if isinstance(optim_wrapper, NormFixingMixin):
            optim_wrapper.attach(inner)
        return optim_wrapper

    def _validate_cfg(self) -> None:
        cfg = self.paramwise_cfg
        if not isinstance(cfg, dict):
            raise TypeError(f'paramwise_cfg should be None or a dict, but got {type(cfg)}')
        unknown = sorted(set(cfg) - set(_OPTIONS))
        if unknown:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg: FixNormOptimWrapperConstructor does not know {unknown}; it takes '
                f'{list(_OPTIONS)}. Replace an inherited one with paramwise_cfg=dict(_delete_=True, ...)'
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
        for key, options in cfg.get('custom_keys', {}).items():
            if set(options) - {'lr_mult'}:
                raise ConfigError(
                    f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}]: only lr_mult is supported, got {dict(options)}'
                )
        # The base class calls add_params only if this is not empty.
        self.paramwise_cfg = {'lambda_fc': None, **cfg}

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', is_dcn_module: Any = None
    ) -> None:
        """Append the groups for all parameters of ``module`` to ``params``."""
        lambda_fc = self.paramwise_cfg['lambda_fc']
        in_set = choose_set(
            module,
            fc=lambda_fc is None,
            exclude=self.paramwise_cfg.get('exclude', ()),
            named_by='optim_wrapper.paramwise_cfg',
        )
        settings: dict[str, dict[str, Any]] = {
            'norm_fixing': {FLAG: True, 'weight_decay': 0.0},
            'fc': {'weight_decay': lambda_fc},
            'no_decay': {'weight_decay': 0.0},
            'others': {},
        }
        kinds = {id(weight): 'norm_fixing' for weight in in_set.values()}
        groups: dict[tuple[str, float], dict[str, Any]] = {}
        for owner_name, owner in module.named_modules():
            for name, param in owner.named_parameters(recurse=False):
                if not param.requires_grad or kinds.get(id(param)) == 'done':
                    continue  # frozen, or shared and already in a group
                kind = kinds.get(id(param)) or self._kind(owner, name)
                lr_mult = self._lr_mult(f'{owner_name}.{name}')
                group = groups.setdefault((kind, lr_mult), {'params': [], **settings[kind]})
                group['params'].append(param)
                kinds[id(param)] = 'done'
        for kind in settings:
            for (group_kind, lr_mult), group in sorted(groups.items(), key=lambda item: item[0]):
                if group_kind == kind:
                    params.append(group if lr_mult == 1 else {**group, 'lr': self.base_lr * lr_mult})
        _log_groups(groups)

    def _kind(self, owner: nn.Module, name: str) -> str:
        is_scale = name == 'g' and isinstance(owner, WeightNormalized)
        if is_norm_layer(owner) or name == 'bias' or is_scale:
            return 'no_decay'
        is_fc = is_linear(owner) and name == 'weight'
        return 'fc' if is_fc and self.paramwise_cfg['lambda_fc'] is not None else 'others'

    def _lr_mult(self, name: str) -> float:
        keys = self.paramwise_cfg.get('custom_keys', {})
        matches = sorted(key for key in keys if key in name)
        return float(keys[max(matches, key=len)].get('lr_mult', 1.0)) if matches else 1.0


def _log_groups(groups: dict[tuple[str, float], dict[str, Any]]) -> None:
    sizes = ', '.join(
        f'{kind} {len(group["params"])} tensors ({sum(p.numel() for p in group["params"])} elements'
        + (f', lr x {lr_mult:g})' if lr_mult != 1 else ')')
        for (kind, lr_mult), group in groups.items()
    )
    print_log(f'FixNorm parameter groups: {sizes}', logger='current')
