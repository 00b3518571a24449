"""Layers replaced while a model is built, for models whose layers no config key changes."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from mmfixnorm.config import MODEL_TYPE
from mmfixnorm.core.layers import (
    FixNormConv2d,
    FixNormLinear,
    WeightNormalized,
    WNConv2d,
    WNLinear,
    fold_layers,
    replace_layers,
)
from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

__all__ = ['ReplacedLayers', 'build_with_replaced_layers', 'is_plain_layer', 'replace_layers_by_path']

_TYPES: dict[str, type[WeightNormalized]] = {
    layer.__name__: layer for layer in (WNLinear, WNConv2d, FixNormLinear, FixNormConv2d)
}
# mmcv's wrappers differ from torch's layers only for old versions of torch.
_PLAIN = (
    'torch.nn.modules.linear.Linear',
    'torch.nn.modules.conv.Conv2d',
    'mmcv.cnn.bricks.wrappers.Linear',
    'mmcv.cnn.bricks.wrappers.Conv2d',
)


@dataclass
class ReplacedLayers:
    """The layers that were replaced in a model, kept as its attribute ``fixnorm``.

    Attributes:
        layers: The new layers by the name of the module.
    """

    layers: dict[str, WeightNormalized]

    @property
    def alpha(self) -> float:
        """The bound of the layers, which a search reads back to check that its alpha took effect.

        Raises:
            ConfigError: If no layer has one, or if they have different ones.
        """
        alphas = {layer.alpha for layer in self.layers.values() if isinstance(layer, (FixNormLinear, FixNormConv2d))}
        if len(alphas) != 1:
            raise ConfigError(f'model.fixnorm.alpha: the replaced layers have the bounds {sorted(alphas)}, not one')
        return alphas.pop()


@MODELS.register_module(MODEL_TYPE)
def build_with_replaced_layers(*, fixnorm: Mapping[str, Any], **model: Any) -> nn.Module:
    """Build a model and replace layers of it, before anything wraps it or takes its parameters.

    As ``type`` of the model it takes effect wherever a model is built from a config: by the Runner of any toolbox's own
    tools, for training, testing and test-time augmentation, and by ``init_detector`` and the like. All other keys of
    the model stay in place. The new layers take over the tensors of the plain ones, draw no random numbers and, below
    the bound, compute the same.

    Args:
        fixnorm (dict): With

            - ``plain_type`` (str): The ``type`` of the model.
            - ``swap`` (dict): Paths of layers to the layers that replace them, ``'WNLinear'``, ``'WNConv2d'``,
              ``'FixNormLinear'``, ``'FixNormConv2d'``, or a dict with ``type`` and any of ``alpha`` (of a FixNorm
              layer) and ``train_scale``; ``train_scale=False`` holds the scale ``g`` at its start, in front of batch
              normalisations on stored statistics. A path is a regular expression for the whole name as in
              ``named_modules()``. Of the layers that it matches, those of the right kind are replaced.
            - ``alpha`` (float, optional): Bound of the FixNorm layers without their own ``alpha``.
        **model: The config of the model, without its ``type``.

    Raises:
        ConfigError: If a key or type is unknown, a path matches no plain layer of its kind, two paths match the
            same layer, a FixNorm layer has no ``alpha``, or ``train_scale`` is not a bool.

    Example of a config:
        >>> model = dict(
        ...     type='FixNormModel',
        ...     fixnorm=dict(
        ...         plain_type='ImageClassifier',
        ...         alpha=1.0,
        ...         swap={'head.fc': 'FixNormLinear', r'backbone\\..*\\.se_layer\\..*': 'WNConv2d'}))
    """
    if unknown := sorted(set(fixnorm) - {'plain_type', 'swap', 'alpha'}):
        raise ConfigError(f'model.fixnorm: takes plain_type, swap and alpha, got {unknown}')
    for key in ('plain_type', 'swap'):
        if not fixnorm.get(key):
            raise ConfigError(f'model.fixnorm.{key}: must be set, got {fixnorm.get(key)!r}')
    built = MODELS.build(dict(model, type=fixnorm['plain_type']))
    built.fixnorm = replace_layers_by_path(built, fixnorm['swap'], alpha=fixnorm.get('alpha'))
    return built


def replace_layers_by_path(model: nn.Module, swap: Mapping[str, Any], *, alpha: float | None = None) -> ReplacedLayers:
    """Replace layers of ``model`` by path, in place; see :func:`build_with_replaced_layers`."""
    chosen: dict[str, tuple[str, WeightNormalized]] = {}
    new: dict[nn.Module, WeightNormalized] = {}
    modules = dict(model.named_modules())
    for path, spec in swap.items():
        kind, arguments = _layer_spec(path, spec, alpha)
        plain = next(base for base in (nn.Linear, nn.Conv2d) if issubclass(kind, base))
        matched = {name: m for name, m in modules.items() if re.fullmatch(path, name)}
        layers = {name: m for name, m in matched.items() if isinstance(m, plain)}
        if not layers:
            matches = {name: type(m).__name__ for name, m in [*matched.items()][:3]} or 'no module at all'
            raise ConfigError(f'model.fixnorm.swap[{path!r}]: must match an nn.{plain.__name__}, it matches {matches}')
        for name, layer in layers.items():
            if name in chosen:
                raise ConfigError(f'model.fixnorm.swap: {chosen[name][0]!r} and {path!r} both match {name}')
            if not is_plain_layer(layer):
                raise ConfigError(
                    f'model.fixnorm.swap[{path!r}]: {name} is a {type(layer).__name__}, which computes something '
                    f'different; only nn.{plain.__name__} can be replaced. Leave its weight out of the set instead: '
                    'optim_wrapper.paramwise_cfg.exclude'
                )
            if layer not in new:  # a module can have several names
                new[layer] = kind.from_plain(layer, **arguments)
            chosen[name] = path, new[layer]
    replace_layers(model, new)
    _fold_at_deployment(model)
    return ReplacedLayers({name: layer for name, (_, layer) in chosen.items()})


def _fold_at_deployment(model: nn.Module) -> None:
    """Let re-parametrised blocks (RepVGG, MobileOne, ...) fold their layers before they merge their branches."""
    module: Any
    for module in model.modules():
        if hasattr(module, 'switch_to_deploy') and any(isinstance(m, WeightNormalized) for m in module.modules()):
            module.switch_to_deploy = functools.partial(_fold_and_switch, module)


def _fold_and_switch(module: Any) -> None:
    fold_layers(module)  # the branches are merged by their weights, without the factor of a weight-normalised layer
    del module.switch_to_deploy  # the attribute of the instance: the method of the class is left
    module.switch_to_deploy()


def is_plain_layer(layer: nn.Module) -> bool:
    """Tell whether a layer is exactly torch's linear layer or convolution, so that it can be replaced.

    The output projection of ``nn.MultiheadAttention`` is not: the attention uses its weight without calling it.
    """
    return f'{type(layer).__module__}.{type(layer).__name__}' in _PLAIN


def _layer_spec(path: str, spec: Any, alpha: float | None) -> tuple[type[WeightNormalized], dict[str, Any]]:
    arguments = dict(spec) if isinstance(spec, Mapping) else {'type': spec}
    given = arguments.pop('type', None)
    name = '' if given is None else type_name(given)
    if name not in _TYPES:
        raise ConfigError(f'model.fixnorm.swap[{path!r}]: the type must be one of {sorted(_TYPES)}, got {given!r}')
    if name.startswith('FixNorm'):
        arguments.setdefault('alpha', alpha)
        if arguments['alpha'] is None:
            raise ConfigError(f'model.fixnorm.swap[{path!r}]: {name} needs alpha, here or in model.fixnorm.alpha')
    if not isinstance(trained := arguments.get('train_scale', True), bool):
        raise ConfigError(f'model.fixnorm.swap[{path!r}].train_scale: must be True or False, got {trained!r}')
    options = {'train_scale', *(['alpha'] if name.startswith('FixNorm') else [])}
    if unknown := sorted(set(arguments) - options):
        raise ConfigError(f'model.fixnorm.swap[{path!r}]: {name} does not take {unknown}')
    return _TYPES[name], arguments
