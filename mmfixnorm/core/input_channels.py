"""The number of channels of the images that a model takes, asked of its first layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmfixnorm.core.layer_kinds import is_weight_layer

__all__ = ['input_channels']

_RGB = 3


class _Reached(Exception):  # noqa: N818  # not an error
    """Ends the forward at the first layer; carries the sizes that the layer expects and gets."""

    def __init__(self, expected: int, given: int) -> None:
        super().__init__(expected, given)
        self.expected, self.given = expected, given


def input_channels(model: nn.Module, size: tuple[int, int], forward: Callable[[Tensor], Any] | None = None) -> int:
    """Return how many channels an image must have for the first convolution or linear layer that it reaches.

    An image of 3 channels starts through the model and stops before that layer computes anything. What the layer
    expects, relative to what it gets, says how many there should be; so a stem that first folds pixels into channels
    (Focus, space-to-depth) is right as well. A model that reaches no such layer counts as one for 3 channels.

    Args:
        model (nn.Module): The model, or its backbone.
        size (tuple[int, int]): Height and width in pixels, as the model will see them.
        forward (Callable, optional): Starts the forward with an image (1, 3, H, W). Defaults to None: ``model``.
    """
    some = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, _RGB, *size, device=some.device, dtype=some.dtype)
    layers = [module for module in model.modules() if is_weight_layer(module)]
    handles = [layer.register_forward_pre_hook(_stop) for layer in layers]
    try:
        with torch.no_grad():
            (forward or model)(image)
    except _Reached as reached:
        channels, rest = divmod(_RGB * reached.expected, reached.given)
        return _RGB if rest else channels
    finally:
        for handle in handles:
            handle.remove()
    return _RGB


def _stop(layer: Any, args: tuple[Any, ...]) -> None:
    if isinstance(layer, nn.Linear):
        raise _Reached(layer.in_features, args[0].shape[-1])
    raise _Reached(layer.in_channels, args[0].shape[1])
