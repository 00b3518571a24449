"""Changes to stock configs of the toolboxes by config keys, without replacing a layer."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from mmfixnorm.type_names import type_name

__all__ = ['RPN', 'head_edits', 'start_edit', 'stored_statistics_edits', 'walk']

_HEADS = {
    'LinearClsHead': 'FixNormLinearClsHead',
    'RetinaHead': 'FixNormRetinaHead',
    'FCOSHead': 'FixNormFCOSHead',
    'FCNHead': 'FixNormFCNHead',
    'PSPHead': 'FixNormPSPHead',
    'DepthwiseSeparableASPPHead': 'FixNormDepthwiseSeparableASPPHead',
    # Heads of this package without a bound.
    'WNLinearClsHead': 'FixNormLinearClsHead',
    'WNRetinaHead': 'FixNormRetinaHead',
    'BaseOCHead': 'FixNormBaseOCHead',
}
#: The key of a region proposal network, whose head tells objects from background, whatever its type.
RPN = 'rpn_head'
# `conv_cfg` makes all of their convolutions, except a head's last ones; without `norm_cfg` no norm layer follows.
_PLAIN_CONVS = ('FPN', 'ChannelMapper', 'RetinaHead')


def walk(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield every dict in nested dicts with its path of keys; skips lists, in which a child config changes nothing."""
    yield path, node
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from walk(value, (*path, key))


def head_edits(
    model: Mapping[str, Any], alpha: float, scope: str | None = None, *, kept: Container[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Change the heads and convolutions that have their own config key.

    Args:
        model (Mapping): ``model`` of the plain config.
        alpha (float): Bound of the FixNorm heads.
        scope (str, optional): ``default_scope`` of the config. Defaults to None: the current scope.
        kept (Container[str]): Dotted paths of heads that stay as they are. Those of region proposal networks do, too.

    Returns:
        tuple[dict, list[str]]: ``model`` of the child, and the dotted paths of the changed heads in it.
    """
    edit: dict[str, Any] = {}
    heads = []
    for path, node in walk(model):
        kind = type_name(node.get('type', ''), MODELS, scope)
        change: dict[str, Any] = {}
        if kind in _HEADS and RPN not in path and '.'.join(path) not in kept:
            change.update(type=_HEADS[kind], alpha=alpha)
            heads.append('.'.join(path))
        if kind in _PLAIN_CONVS and node.get('norm_cfg') is None and node.get('conv_cfg') is None:
            change.update(conv_cfg=dict(type='WNConv2d'))
        if change:
            _at(edit, path).update(change)
    return edit, heads


def stored_statistics_edits(model_cfg: Mapping[str, Any], model: nn.Module, edit: dict[str, Any]) -> bool:
    """Switch BN with ``norm_eval`` to batch statistics, in ``edit``; return whether there was any."""
    changed = False
    nodes = {'.'.join(path): (path, node) for path, node in walk(model_cfg)}
    for name, module in model.named_modules():
        if getattr(module, 'norm_eval', False) is not True or name not in nodes:
            continue
        path, node = nodes[name]
        change: dict[str, Any] = dict(norm_eval=False)
        norm_cfg = node.get('norm_cfg') or dict(type='BN')
        norm: dict[str, Any] = {}
        if type_name(norm_cfg.get('type'), MODELS) == 'BN':  # detectors have only two images per GPU
            norm['type'] = 'SyncBN'
        if norm_cfg.get('requires_grad') is False:
            norm['requires_grad'] = True
        if norm:
            change['norm_cfg'] = norm
        _at(edit, path).update(change)
        changed = True
    return changed


def start_edit(model_cfg: Mapping[str, Any], layer: str, kind: str, edit: dict[str, Any]) -> None:
    """Initialise a layer from a normal distribution, by ``init_cfg`` of the innermost dict that contains it.

    Args:
        model_cfg (Mapping): ``model`` of the plain config.
        layer (str): Name of the layer in the model.
        kind (str): ``'Linear'`` or ``'Conv2d'``; the edit applies to all of them in that dict.
        edit (dict): ``model`` of the child, changed in place.
    """
    own = (path for path, node in walk(model_cfg) if path and 'type' in node)
    paths = [path for path in own if layer.startswith(f'{".".join(path)}.')]
    if paths:
        # A list replaces the existing value, where a dict would be merged with it.
        _at(edit, max(paths, key=len))['init_cfg'] = [dict(type='Normal', layer=kind, std=0.01)]


def _at(edit: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        edit = edit.setdefault(key, {})
    return edit
