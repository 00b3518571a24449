"""The methods of search: one file each, and the table that names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import nearest
from mmfixnorm.search.methods import bayesian, fixnorm, grid, halving, lr_fit, sampled, unimodal
from mmfixnorm.search.methods.base import Method
from mmfixnorm.search.settings import SearchSettings

__all__ = ['METHODS', 'method_of', 'parse_settings']

#: Every method by its ``search.type``. To add one: a file beside this one, and its line here.
METHODS: dict[str, Method] = {
    module.METHOD.settings.kind: module.METHOD
    for module in (
        fixnorm,
        unimodal,
        lr_fit,
        grid,
        sampled,
        bayesian,
        halving,
    )
}


def method_of(settings: SearchSettings) -> Method:
    """Look up the method of these settings.

    Raises:
        TypeError: No method in :data:`METHODS` has settings of this type.
    """
    method = METHODS.get(getattr(settings, 'kind', ''))
    if method is None or method.settings is not type(settings):
        raise TypeError(f'no method has settings of type {type(settings).__name__}; enter it in METHODS')
    return method


def parse_settings(block: Any) -> SearchSettings:
    """Check a config's ``search`` block.

    Args:
        block (dict): The block, with its ``type`` (default ``'FixNormSearch'``).

    Raises:
        ConfigError: No block, an unknown type or key, or a value that breaks its rule.

    Example:
        >>> parse_settings(dict(type='FixNormSearch', lr_range=(0.2, 3.2))).num_splits
        5
    """
    if not isinstance(block, Mapping):
        raise ConfigError(
            "search: the config needs a block search = dict(type='FixNormSearch', "
            f'lr_range=(lr_min, lr_max), ...), got {block!r}'
        )
    values = dict(block)
    name = values.pop('type', fixnorm.FixNormSearch.kind)
    if name not in METHODS:
        raise ConfigError(f'search.type: must be one of {sorted(METHODS)}, got {name!r}{nearest(str(name), METHODS)}')
    settings = METHODS[name].settings
    valid = {f.name for f in fields(settings)}
    for key in values:
        if key not in valid:
            raise ConfigError(
                f'search.{key}: {name} has no such key{nearest(str(key), {*valid, "type"})} '
                f'(it has: {", ".join(sorted(valid))})'
            )
    return settings(**values)
