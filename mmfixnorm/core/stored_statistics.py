"""Finds weights in front of a batch normalisation that does not use batch statistics."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmfixnorm.core.layer_kinds import is_batch_norm, is_weight_layer

__all__ = ['stored_statistics_layers']


def stored_statistics_layers(model: nn.Module) -> dict[str, str]:
    """Find the convolutions and linear layers whose batch normalisation runs on stored statistics in training.

    Such a normalisation (``norm_eval=True``, frozen stages) is an affine map, so the layer in front of it is not
    scale-invariant. The mode is the one that ``model.train()`` sets; it is restored afterwards. A
    normalisation is taken to belong to the layer registered before it, if the number of channels matches.

    Returns:
        dict[str, str]: Name of the layer to name of its batch normalisation.
    """
    modes = {module: module.training for module in model.modules()}
    model.train()
    norm_of_layer = {}
    last: tuple[str, Any] | None = None
    module: Any
    for name, module in model.named_modules():
        if is_weight_layer(module):
            if last is None or not name.startswith(f'{last[0]}.'):  # not the offsets inside a deformable convolution
                last = name, module
        elif is_batch_norm(module) and last is not None:
            stored = not module.training and module.running_mean is not None
            if stored and last[1].weight.shape[0] == module.num_features:
                norm_of_layer[last[0]] = name
            last = None
    for module, mode in modes.items():
        module.training = mode
    return norm_of_layer
