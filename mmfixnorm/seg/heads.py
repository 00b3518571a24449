"""Decode heads of mmseg: Base-OC, and heads whose classifier is a FixNorm-Conv."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead, FCNHead, PSPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from mmfixnorm.core.layers import FixNormConv2d
from mmfixnorm.seg.object_context import ObjectContext, WNObjectContext


@MODELS.register_module()
class BaseOCHead(BaseDecodeHead):
    """Base-OC of OCNet (Yuan and Wang 2018, section 3.2).

    A 3x3 convolution, :class:`ObjectContext` on its output, a 1x1 convolution of both concatenated, dropout and the
    classifier. A norm layer and an activation follow the two convolutions.

    Args:
        key_channels (int): Channels of key, query and value. Defaults to 256.
        dropout_ratio (float): Probability of dropping a channel in front of the classifier. Defaults to 0.05.
        **kwargs: Arguments of ``BaseDecodeHead``; OCNet has ``channels=512``.

    Shape:
        ``inputs[in_index]`` of (N, in_channels, H, W) to logits (N, num_classes, H, W).
    """

    object_context_type: type[ObjectContext] = ObjectContext

    def __init__(self, *, key_channels: int = 256, dropout_ratio: float = 0.05, **kwargs: Any) -> None:
        super().__init__(dropout_ratio=dropout_ratio, **kwargs)
        layer_cfg = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.conv = ConvModule(self.in_channels, self.channels, 3, padding=1, **layer_cfg)
        self.object_context = self.object_context_type(self.channels, key_channels, **layer_cfg)
        self.bottleneck = ConvModule(2 * self.channels, self.channels, 1, **layer_cfg)

    def _forward_feature(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute the features that ``cls_seg`` classifies, (N, channels, H, W)."""
        feats = self.conv(self._transform_inputs(inputs))
        return self.bottleneck(torch.cat([self.object_context(feats), feats], dim=1))

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.cls_seg(self._forward_feature(inputs))


class FixNormDecodeHeadMixin:
    """Makes the last convolution of a decode head, ``conv_seg``, a :class:`FixNormConv2d` (eq. 29).

    Put it before any head with this layer in the list of bases.

    Args:
        alpha (float): Bound on the scale ``g``, in units of ``sqrt(num_classes)``.

    Raises:
        ValueError: If ``alpha`` is not > 0.

    Example:
        >>> @MODELS.register_module()
        ... class FixNormUPerHead(FixNormDecodeHeadMixin, UPerHead):
        ...     pass
    """

    conv_seg: Any

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_seg = FixNormConv2d.from_plain(self.conv_seg, alpha=alpha)

    @property
    def alpha(self) -> float:
        """The bound in use."""
        return self.conv_seg.alpha


@MODELS.register_module()
class FixNormBaseOCHead(FixNormDecodeHeadMixin, BaseOCHead):
    """:class:`BaseOCHead` with a :class:`FixNormConv2d` for the classes and :class:`WNObjectContext`.

    Takes ``alpha``, see :class:`FixNormDecodeHeadMixin`, and the arguments of :class:`BaseOCHead`.
    """

    object_context_type = WNObjectContext


@MODELS.register_module()
class FixNormFCNHead(FixNormDecodeHeadMixin, FCNHead):
    """:class:`FCNHead` with a :class:`FixNormConv2d` for the classes; the auxiliary head of Base-OC."""


@MODELS.register_module()
class FixNormPSPHead(FixNormDecodeHeadMixin, PSPHead):
    """:class:`PSPHead` with a :class:`FixNormConv2d` for the classes."""


@MODELS.register_module()
class FixNormDepthwiseSeparableASPPHead(FixNormDecodeHeadMixin, DepthwiseSeparableASPPHead):
    """The head of DeepLabV3+ with a :class:`FixNormConv2d` for the classes."""
