"""What stock configs of the toolboxes change by config keys, without replacing a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ['head_edits', 'start_edit', 'stored_statistics_edits', 'walk']

_HEADS = {
    'LinearClsHead': 'FixNormLinearClsHead',
    'RetinaHead': 'FixNormRetinaHead',
    'FCOSHead': 'FixNormFCOSHead',
    'FCNHead': 'FixNormFCNHead',
    'PSPHead': 'FixNormPSPHead',
    'DepthwiseSeparableASPPHead': 'FixNormDepthwiseSeparableASPPHead',
    # This package's own plain forms.
    'WNLinearClsHead': 'FixNormLinearClsHead',
    'WNRetinaHead': 'FixNormRetinaHead',
    'BaseOCHead': 'FixNormBaseOCHead',
}
# All of their convolutions are made by `conv_cfg`, but for a head's last ones, and none has a norm without `norm_cfg`.
_PLAIN_CONVS = ('FPN', 'ChannelMapper', 'RetinaHead')


def walk(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every dict in nested dicts with its keys from the root; lists are not entered, a child cannot change in them."""
    yield path, node
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from walk(value, (*path, key))


def head_edits(model: Mapping[str, Any], alpha: float) -> tuple[dict[str, Any], list[str]]:
    """Heads and convolutions with a config key of their own.

    Args:
        model (Mapping): ``model`` of the plain config.
        alpha (float): For the FixNorm heads.

    Returns:
        tuple[dict, list[str]]: The child's ``model``, and the keys of alpha in it.
    """
    edit: dict[str, Any] = {}
    alpha_keys = []
    for path, node in walk(model):
        kind = node.get('type')
        change: dict[str, Any] = {}
        if kind in _HEADS:
            change.update(type=_HEADS[kind], alpha=alpha)
            alpha_keys.append('.'.join(('model', *path, 'alpha')))
        if kind in _PLAIN_CONVS and node.get('norm_cfg') is None and node.get('conv_cfg') is None:
            change.update(conv_cfg=dict(type='WNConv2d'))
        if change:
            _at(edit, path).update(change)
    return edit, alpha_keys


def stored_statistics_edits(model_cfg: Mapping[str, Any], model: nn.Module, edit: dict[str, Any]) -> bool:
    """Let BN use the statistics of the batch where ``norm_eval`` says otherwise; adds to ``edit``, tells whether."""
    changed = False
    nodes = {'.'.join(path): (path, node) for path, node in walk(model_cfg)}
    for name, module in model.named_modules():
        if getattr(module, 'norm_eval', False) is not True or name not in nodes:
            continue
        path, node = nodes[name]
        change: dict[str, Any] = dict(norm_eval=False)
        norm_cfg = node.get('norm_cfg') or dict(type='BN')
        norm: dict[str, Any] = {}
        if norm_cfg.get('type') == 'BN':  # detectors have two images on a GPU
            norm['type'] = 'SyncBN'
        if norm_cfg.get('requires_grad') is False:
            norm['requires_grad'] = True
        if norm:
            change['norm_cfg'] = norm
        _at(edit, path).update(change)
        changed = True
    return changed


def start_edit(model_cfg: Mapping[str, Any], layer: str, kind: str, edit: dict[str, Any]) -> None:
    """Let a layer start from a normal distribution, by ``init_cfg`` of the innermost dict that holds it.

    Args:
        model_cfg (Mapping): ``model`` of the plain config.
        layer (str): Name of the layer in the model.
        kind (str): ``'Linear'`` or ``'Conv2d'``; all of them in there start so.
        edit (dict): The child's ``model``, to be added to.
    """
    own = (path for path, node in walk(model_cfg) if path and 'type' in node)
    paths = [path for path in own if layer.startswith(f'{".".join(path)}.')]
    if paths:
        # A list takes the place of whatever is there; a dict would be merged with it.
        _at(edit, max(paths, key=len))['init_cfg'] = [dict(type='Normal', layer=kind, std=0.01)]


def _at(edit: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        edit = edit.setdefault(key, {})
    return edit
