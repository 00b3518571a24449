"""Norm fixing layer by layer, in place of one norm for the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor
from torch.optim import Optimizer

from mmfixnorm.core.norm_fixing import NormAnchor, flagged, global_norm, rescale_, starting_norm
from mmfixnorm.engine.optim_wrapper import FixNormAmpOptimWrapper, FixNormOptimWrapper

__all__ = ['PerLayerFixNormAmpOptimWrapper', 'PerLayerFixNormOptimWrapper', 'TensorNormAnchor']


class TensorNormAnchor(NormAnchor):
    r"""Keeps the norm of each flagged tensor: :math:`W_l \leftarrow W_l \, \|W_{l,0}\| / \|W_l\|` after each step.

    Layers cannot trade norm, unlike under :class:`~mmfixnorm.core.NormAnchor`, whose ``target`` stays as well, as all
    parts of it do. The norms are those before the first step; there is no other choice. A tensor that is frozen
    later stays as it is.

    Args:
        target (float, optional): Must be None.

    Raises:
        ValueError: If a target is given, or if a norm is not finite and > 0 before the first step.
    """

    per = 'tensor'

    def __init__(self, target: float | None = None) -> None:
        if target is not None:
            raise ValueError(f'target must be None where each tensor keeps its own norm, got {target!r}')
        super().__init__()
        self.norms: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), 'norms': self.norms}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer: Optimizer) -> None:
        super().load_state_dict(state_dict, optimizer)
        self.norms = list(state_dict['norms'])

    def _take_targets(self, tensors: Sequence[Tensor]) -> None:
        super()._take_targets(tensors)
        self.norms = [starting_norm([tensor]) for tensor in tensors]

    @torch.no_grad()
    def _hold_(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for tensor, norm in zip(flagged(optimizer), self.norms, strict=True):
            if tensor.requires_grad:
                rescale_(optimizer, [tensor], norm / global_norm([tensor]))


@OPTIM_WRAPPERS.register_module()
class PerLayerFixNormOptimWrapper(FixNormOptimWrapper):
    """:class:`FixNormOptimWrapper` that keeps the norm of each layer's weight instead of the joint one.

    Takes the same arguments but for ``target``. A run is resumed only from a checkpoint of the same wrapper.
    :class:`FixNormEMAHook` puts back the joint norm of an average, not that of each layer.

    Hoffer et al., "Norm matters: efficient and accurate normalization schemes in deep networks", NeurIPS 2018, bound
    the norm by a parametrisation, per output channel (see :class:`NormBoundedConv2d`); this is the same idea by
    projection and per tensor. Read: the abstract and the authors' code (eladhoffer/norm_matters).

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     type='PerLayerFixNormOptimWrapper',
        ...     constructor='FixNormOptimWrapperConstructor',
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9, nesterov=True))
    """

    anchor_type: ClassVar[type[NormAnchor]] = TensorNormAnchor


@OPTIM_WRAPPERS.register_module()
class PerLayerFixNormAmpOptimWrapper(FixNormAmpOptimWrapper):
    """:class:`FixNormAmpOptimWrapper` that keeps the norm of each layer's weight instead of the joint one."""

    anchor_type: ClassVar[type[NormAnchor]] = TensorNormAnchor
