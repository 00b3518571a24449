"""The block ``fixnorm = dict(swap={...})`` of a config, without torch."""

from __future__ import annotations

from mmengine.config import Config

from mmfixnorm.errors import ConfigError

__all__ = ['MODEL_TYPE', 'move_swap_into_model']

MODEL_TYPE = 'FixNormModel'


def move_swap_into_model(cfg: Config) -> None:
    """Turn a ``fixnorm`` block of the config itself into that of its model, in place.

    Only tools of this package read the block at the top of a config; written into the model, every tool does.

    Raises:
        ConfigError: If the model has such a block already.
    """
    block = cfg.get('fixnorm')
    if block is None:
        return
    model = cfg.get('model') or {}
    if model.get('type') == MODEL_TYPE:
        raise ConfigError(f"fixnorm: the model is of type '{MODEL_TYPE}' already; write it into model.fixnorm")
    cfg.model = dict(model, type=MODEL_TYPE, fixnorm=dict(block, plain_type=model.get('type')))
    cfg.pop('fixnorm')
