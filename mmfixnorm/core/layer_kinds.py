"""Kinds of layers: convolutions, linear layers, norm layers; and the weights of the norm-fixing set and of the audit.

The whole package decides these questions here.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = [
    'is_audited_weight',
    'is_batch_norm',
    'is_conv',
    'is_fixable_weight',
    'is_linear',
    'is_norm_layer',
    'is_plain_linear',
    'is_weight_layer',
]


def is_conv(module: nn.Module) -> bool:
    """Tell whether a module is a convolution of torch, including transposed and weight-normalised ones."""
    return isinstance(module, _ConvNd)


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


def is_fixable_weight(module: nn.Module, name: str, *, fc: bool = True) -> bool:
    """Tell whether the norm-fixing set takes the parameter ``name`` of ``module``; linear layers only with ``fc``."""
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
    if name.startswith('parametrizations.weight.'):
        return is_weight_layer(module) or hasattr(module, 'kernel_size')
    # Deformable convolutions derive from nn.Module alone.
    return name == 'weight' and hasattr(module, 'kernel_size')
