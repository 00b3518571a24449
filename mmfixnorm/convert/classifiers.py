"""Which layers of a model tell the classes apart: those that grow when the config has one class more."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmfixnorm.config import dicts_in
from mmfixnorm.convert.audit import model_of
from mmfixnorm.convert.stock import RPN
from mmfixnorm.core.audit.probe import preserve_random_state
from mmfixnorm.core.layer_kinds import is_weight_layer
from mmfixnorm.type_names import type_name

__all__ = ['class_layers']

_COUNT = re.compile(r'num_(\w+_)?classes')


def class_layers(cfg: Config, model: nn.Module) -> dict[str, bool] | None:
    """Find the layers with outputs for the classes, by building the model once more with one class more.

    The number of outputs alone would not do: with 2 classes, the 68 outputs of a box regression are a multiple of
    them; with one class, so is anything. Nor would the names of modules, of which there are many.

    Args:
        cfg (Config): The config of ``model``. Every ``num_classes``, ``num_things_classes`` and the like in it counts,
            except in region proposal networks, which tell objects from background.
        model (nn.Module): As it is built from ``cfg``.

    The single output of a head for two classes, mmseg's ``num_classes=2, out_channels=1``, does not grow, but counts.

    Returns:
        dict[str, bool] | None: Name of the layer, as in ``named_modules()``, to whether all of its outputs are for
        classes, with or without background, for each of a number of anchors; in YOLOv3 they are for the boxes too. None
        if the config has no such key, or if the model cannot be built with another number.
    """
    wider = copy.deepcopy(cfg)
    counts = _add_class(wider.model, cfg.get('default_scope'))
    found = _single_outputs(model)
    if not counts:
        return found or None
    try:
        with preserve_random_state():
            other = dict(model_of(wider).named_modules())
    except Exception:  # the number is a property of this model, such as of a text encoder
        return None
    for name, module in model.named_modules():
        if is_weight_layer(module) and name in other and _outputs(other[name]) > _outputs(module):
            each = _outputs(other[name]) - _outputs(module)  # outputs for one class
            found[name] = any(_outputs(module) in (each * n, each * (n + 1)) for n in counts)
    return found


def _outputs(module: Any) -> int:
    return int(getattr(module, 'out_features', 0) or getattr(module, 'out_channels', 0))


def _single_outputs(model: nn.Module) -> dict[str, bool]:
    """Layers of heads that tell two classes apart by the sign of a single output."""
    heads = [(name, m) for name, m in model.named_modules() if _is_binary(vars(m))]
    layers = ((f'{name}.{child}', layer) for name, head in heads for child, layer in head.named_children())
    return {name: True for name, layer in layers if is_weight_layer(layer) and _outputs(layer) == 1}


def _is_binary(head: Mapping[str, Any]) -> bool:
    return head.get('out_channels') == 1 and head.get('num_classes') in (1, 2)


def _add_class(node: Any, scope: str | None) -> set[int]:
    """Add a class wherever a config counts them, in place; return the numbers that were there."""
    counts = set()
    proposals = {id(own[RPN]) for own in dicts_in(node) if RPN in own}
    for own in dicts_in(node):
        if id(own) in proposals or 'RPN' in type_name(own.get('type') or '', MODELS, scope) or _is_binary(own):
            continue
        for key, value in [*own.items()]:
            if _COUNT.fullmatch(str(key)) and isinstance(value, int) and not isinstance(value, bool):
                if key == 'num_stuff_classes':  # beside those of things, in one layer
                    counts.add(value + (own.get('num_things_classes') or 0))
                    continue
                own[key] = value + 1
                counts.add(value)
            elif key == 'class_weight' and isinstance(value, (list, tuple)) and value:
                own[key] = [value[0], *value]
    return counts
