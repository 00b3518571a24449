"""Values of a child config where its base has ``None``, which mmengine does not merge with a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ['over_none']


def over_none(edit: Mapping[str, Any], base: Any) -> dict[str, Any]:
    """Mark the dicts of ``edit`` by ``_delete_=True`` where ``base`` has the key and neither a dict nor a list.

    Args:
        edit (Mapping): A value of the child config.
        base (Any): The value of the base config at the same key.

    Example:
        >>> over_none(dict(neck=dict(conv_cfg=dict(type='WNConv2d'))), dict(neck=dict(conv_cfg=None)))
        {'neck': {'conv_cfg': {'_delete_': True, 'type': 'WNConv2d'}}}
    """
    marked: dict[str, Any] = {}
    for key, value in edit.items():
        if not isinstance(value, Mapping):
            marked[key] = value
            continue
        below = base.get(key) if isinstance(base, Mapping) else None
        replaces = isinstance(base, Mapping) and key in base and not isinstance(below, (Mapping, list))
        delete = {'_delete_': True} if replaces and '_delete_' not in value else {}
        marked[key] = {**delete, **over_none(value, below)}
    return marked
