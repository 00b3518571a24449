"""The norm of the convolutions' weights, from the log of WeightNormLoggerHook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmfixnorm.analysis.runs import Series, TrainingRun
from mmfixnorm.config import hooks_of_type
from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

#: Constructors that choose the set whose norm is logged, whatever the wrapper does with it; without one the hook does.
_CHOOSING = ('FixNormOptimWrapperConstructor', 'PerLayerGroupsOptimWrapperConstructor')
#: What the names of wrappers begin with that fix norms, with AMP or without.
_FIXING = ('FixNorm', 'PerLayerFixNorm', 'Hyperball', 'Rotational')


def conv_norm(run: TrainingRun) -> tuple[Series, str]:
    """Compute ``||W_Conv||`` of a run, and say how if it was not logged as such.

    The logged norm counts the convolutions alone under Algorithm 1 and with ``WeightNormLoggerHook(fc=False)``. With
    ``fc=True`` it counts the weights of linear layers too; ``||W_FC||``, which CrossBoundaryRiskHook logs as ``g`` for
    a plain layer, is then removed: ``sqrt(||W||^2 - ||W_FC||^2)``.

    Raises:
        ConfigError: If the logged norm counts linear layers whose share is not in the log.
    """
    counted = run.series('train', 'weight_norm')
    if not counts_linear(run.cfg):
        return counted, ''
    if _fixes_norm(run.cfg) or _has_weight_normalised_layers(run.cfg):
        raise ConfigError(
            f'{run.work_dir}: the logged norm counts convolutions and linear layers together, and of a '
            'weight-normalised layer only g is logged. Expected a run with weight decay or Algorithm 1 (Fig. 1), or '
            'one without norm fixing and with WeightNormLoggerHook(fc=False)'
        )
    return _without_linear(run, counted), (
        'the norm that WeightNormLoggerHook logged counts linear layers; the share of the final one (g of '
        'CrossBoundaryRiskHook), assumed to be the only one, is removed'
    )


def _without_linear(run: TrainingRun, counted: Series) -> Series:
    intervals = {_hook(run.cfg, name).get('interval', 50) for name in ('WeightNormLoggerHook', 'CrossBoundaryRiskHook')}
    if len(intervals) > 1 or _hook(run.cfg, 'CrossBoundaryRiskHook').get('layer') is not None:
        raise ConfigError(
            f'{run.work_dir}: the norm of linear layers cannot be removed from the logged one: custom_hooks must have '
            'WeightNormLoggerHook and CrossBoundaryRiskHook with the same interval and no layer. Or train with '
            'WeightNormLoggerHook(fc=False)'
        )
    linear = dict(zip(*run.series('train', 'g'), strict=True))
    pairs = [(x, norm, linear[x]) for x, norm in zip(*counted, strict=True) if x in linear]
    return Series([x for x, _, _ in pairs], [math.sqrt(max(norm**2 - fc**2, 0.0)) for _, norm, fc in pairs])


def counts_linear(cfg: Config) -> bool:
    """Tell whether the norm that WeightNormLoggerHook logs under this config counts linear layers too."""
    wrapper = cfg.get('optim_wrapper') or {}
    if fixing := _hook(cfg, 'FixNormHook'):
        return bool(fixing.get('fc', True))
    if type_name(wrapper.get('constructor', '')) in _CHOOSING or _fixes_norm(cfg):
        return (wrapper.get('paramwise_cfg') or {}).get('lambda_fc') is None
    return bool(_hook(cfg, 'WeightNormLoggerHook').get('fc', True))


def _fixes_norm(cfg: Config) -> bool:
    wrapper = (cfg.get('optim_wrapper') or {}).get('type', 'OptimWrapper')
    return type_name(wrapper).startswith(_FIXING) or bool(_hook(cfg, 'FixNormHook'))


def _hook(cfg: Config, name: str) -> Mapping[str, Any]:
    hooks = hooks_of_type(cfg, name)
    return hooks[-1] if hooks else {}


def _has_weight_normalised_layers(cfg: Config) -> bool:
    return any(kind.startswith(('WN', 'FixNorm')) for kind in _types(cfg.get('model')))


def _types(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield type_name(node.get('type', ''))
        for child in node.values():
            yield from _types(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _types(child)
