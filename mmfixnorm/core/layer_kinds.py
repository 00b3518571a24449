"""Kinds of layers: convolutions, linear layers, norm layers; and the weights of the norm-fixing set and of the audit.

The whole package decides these questions here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from mmfixnorm.core.layers import WeightNormalized

__all__ = [
    'describe_unfixed_weights',
    'is_adapter',
    'is_audited_weight',
    'is_batch_norm',
    'is_conv',
    'is_fixable_weight',
    'is_linear',
    'is_norm_layer',
    'is_plain_linear',
    'is_weight_layer',
    'layer_weights',
    'stored_statistics_layers',
    'unfixed_weights',
]

_FORMER_REPARAMETRIZATION = ('weight_orig', 'weight_g', 'weight_v')
"""Parameters of ``torch.nn.utils.spectral_norm``, ``weight_norm`` and ``prune``."""


def is_conv(module: nn.Module) -> bool:
    """Tell whether a module is a convolution: of torch, transposed and weight-normalised ones too, or deformable.

    Deformable convolutions of mmcv and torchvision, and the sparse ones of mmcv, derive from ``nn.Module`` alone; they
    have a kernel of three dimensions or more. The convolution that computes offsets is a layer of its own.
    """
    if isinstance(module, _ConvNd):
        return True
    weight = module._parameters.get('weight') if hasattr(module, 'kernel_size') else None
    return weight is not None and weight.ndim >= 3


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer of torch, including weight-normalised ones."""
    return isinstance(module, nn.Linear)


def is_plain_linear(module: nn.Module) -> bool:
    """Tell whether a module is exactly ``nn.Linear``, not a class derived from it."""
    return type(module) is nn.Linear


def is_weight_layer(module: nn.Module) -> bool:
    """Tell whether a module is a convolution or a linear layer."""
    return is_conv(module) or is_linear(module)


def is_batch_norm(module: nn.Module) -> bool:
    """Tell whether a module is a batch normalisation, including SyncBN."""
    return isinstance(module, _BatchNorm)


def is_norm_layer(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's norm layers."""
    return is_batch_norm(module) or isinstance(module, (_InstanceNorm, nn.GroupNorm, nn.LayerNorm))


def is_adapter(name: str) -> bool:
    """Tell by its name whether a module or parameter belongs to a LoRA adapter of mmpretrain or PEFT.

    An adapter is added to a layer that has its own weight, and half of it starts at zero, so that its norm has to grow.
    """
    return any(part.startswith('lora_') for part in name.split('.'))


def is_fixable_weight(module: nn.Module, name: str, *, fc: bool = True) -> bool:
    """Tell whether the norm-fixing set takes the parameter ``name`` of ``module``; linear layers only with ``fc``.

    Unless the module is an adapter, see :func:`is_adapter`.
    """
    return name == 'weight' and (is_conv(module) or (fc and is_linear(module)))


def is_audited_weight(module: nn.Module, name: str) -> bool:
    """Tell whether the audit measures the parameter ``name`` of ``module``, if it has two dimensions or more.

    Parameters of a parametrization count as the module's own: ``parametrizations.weight.original0``.
    """
    # The only difference between the two notions: the audit also measures weights that norm fixing leaves alone.
    return is_fixable_weight(module, name) or _is_audited_only(module, name)


def _is_audited_only(module: nn.Module, name: str) -> bool:
    if isinstance(module, nn.MultiheadAttention):  # its output projection is an nn.Linear module
        return name.endswith('_proj_weight')
    if name.startswith('parametrizations.weight.') or name in _FORMER_REPARAMETRIZATION:
        return is_weight_layer(module) or hasattr(module, 'kernel_size')
    return False


def layer_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Find the weights of convolutions, linear layers and attentions.

    Yields:
        tuple[str, nn.Module, str, nn.Parameter]: Name of the layer, the layer, name of the parameter in it, the
        parameter; once for each name that a shared layer has.
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        parametrized = hasattr(module, 'parametrizations')
        for name, param in module.named_parameters(recurse=parametrized, remove_duplicate=False):
            if is_audited_weight(module, name) and param.ndim >= 2:
                yield prefix, module, name, param


def unfixed_weights(model: nn.Module) -> dict[str, str]:
    """Find the trainable weights of layers that norm fixing leaves alone, whatever the config excludes.

    Returns:
        dict[str, str]: Name of the parameter to what it is.
    """
    kinds = {}
    for prefix, module, name, param in layer_weights(model):
        if is_adapter(prefix):
            kind = 'LoRA adapters'
        elif is_fixable_weight(module, name):
            continue
        elif isinstance(module, nn.MultiheadAttention):
            kind = 'input projections of nn.MultiheadAttention'
        else:
            kind = 're-parametrised layers (weight_norm, spectral_norm, pruning, parametrize)'
        if param.requires_grad:
            kinds[f'{prefix}.{name}'.lstrip('.')] = kind
    return kinds


def describe_unfixed_weights(model: nn.Module, shown: int = 5) -> str:
    """Say in one line which weights :func:`unfixed_weights` finds, with at most ``shown`` names of a kind; or ''."""
    names: dict[str, list[str]] = {}
    for name, kind in unfixed_weights(model).items():
        names.setdefault(kind, []).append(name)
    if not names:
        return ''
    listed = '; '.join(
        f'{kind}: {", ".join(group[:shown])}{f" and {len(group) - shown} more" if len(group) > shown else ""}'
        for kind, group in names.items()
    )
    return (
        'The norm of these weights is not fixed, and they have the weight_decay of the optimizer, which is 0 in most '
        f'configs with norm fixing. {listed}.'
    )


def stored_statistics_layers(model: nn.Module) -> dict[str, str]:
    """Find the convolutions and linear layers whose batch normalisation runs on stored statistics in training.

    Such a normalisation (``norm_eval=True``, frozen stages) is an affine map, so the layer in front of it is not
    scale-invariant unless it is weight-normalised; such layers are left out. The mode is the one that ``model.train()``
    sets; it is restored afterwards. A normalisation is taken to belong to the layer registered before it, if the number
    of channels matches.

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
            is_plain = not isinstance(last[1], WeightNormalized)
            if stored and is_plain and last[1].weight.shape[0] == module.num_features:
                norm_of_layer[last[0]] = name
            last = None
    for module, mode in modes.items():
        module.training = mode
    return norm_of_layer
