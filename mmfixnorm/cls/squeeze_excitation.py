"""Backbones with squeeze-and-excitation (SE) for the paper's rows with tricks, and their FixNorm forms.

The FixNorm form of a backbone has weight-normalised layers in its SE blocks, which no norm layer follows (A.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmcv.cnn import ConvModule, build_activation_layer
from mmpretrain.models.backbones import EfficientNet, MobileNetV2, ResNetV1d
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.backbones.resnet import ResLayer
from mmpretrain.models.backbones.seresnet import SEBottleneck
from mmpretrain.models.utils import InvertedResidual, SELayer, make_divisible
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmfixnorm.core.layers import WNConv2d, replace_layers

_BN = dict(type='BN')
_SWISH = dict(type='SiLU')
_INIT: list[dict[str, Any]] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


@MODELS.register_module()
class SEMobileNetV2(MobileNetV2):
    """:class:`mmpretrain.models.MobileNetV2` with SE, any activation and stochastic depth in its blocks.

    As in EfficientNet, SE sits on the expanded channels after the depthwise convolution and squeezes to a fraction
    of the block's input channels; the rate of stochastic depth rises linearly from 0 at the first block.

    Args:
        widen_factor (float): Width multiplier. Defaults to 1.0.
        divisor (int): Channels are rounded to multiples of it. Defaults to 4, with which the paper's two widths match
            its parameters and FLOPs best (docs/imagenet.md lists the others).
        se_ratio (float): Squeezed channels in units of the block's input channels. Defaults to 0.25.
        drop_path_rate (float): Rate of stochastic depth of the last block. Defaults to 0.2.
        act_cfg (dict): Activation, except in the SE gate. Defaults to swish, which torch calls SiLU.
        out_indices, frozen_stages, conv_cfg, norm_cfg, norm_eval, with_cp, init_cfg: As in the base class.

    Shape:
        Input (N, 3, H, W); output a tuple with (N, out_channel, H / 32, W / 32).
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        divisor: int = 4,
        se_ratio: float = 0.25,
        drop_path_rate: float = 0.2,
        act_cfg: dict = _SWISH,
        out_indices: Sequence[int] = (7,),
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = _BN,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Sequence[dict] | dict | None = _INIT,
    ) -> None:
        stages = range(len(self.arch_settings) + 1)  # and the last convolution
        if not all(index in stages for index in out_indices):
            raise ValueError(f'out_indices must be among 0 to {stages[-1]}, got {out_indices}')
        if frozen_stages not in (-1, *stages):
            raise ValueError(f'frozen_stages must be -1 to {stages[-1]}, got {frozen_stages}')
        BaseBackbone.__init__(self, init_cfg)  # the parent's constructor would build blocks without SE
        self.widen_factor = widen_factor
        self.se_ratio = se_ratio
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self._layer_cfg = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)

        def scaled(channels: int) -> int:
            return make_divisible(channels * widen_factor, divisor)

        self.in_channels = scaled(32)
        self.conv1 = ConvModule(3, self.in_channels, 3, stride=2, padding=1, **self._layer_cfg)
        self.layers = []
        rates = torch.linspace(0, drop_path_rate, sum(layer[2] for layer in self.arch_settings)).tolist()
        for i, (expand_ratio, channels, num_blocks, stride) in enumerate(self.arch_settings, start=1):
            blocks = [
                self._block(scaled(channels), stride if block == 0 else 1, expand_ratio, rates.pop(0))
                for block in range(num_blocks)
            ]
            self.add_module(f'layer{i}', nn.Sequential(*blocks))
            self.layers.append(f'layer{i}')
        self.out_channel = max(1280, scaled(1280))
        self.conv2 = ConvModule(self.in_channels, self.out_channel, 1, **self._layer_cfg)
        self.layers.append('conv2')

    def _block(self, out_channels: int, stride: int, expand_ratio: int, drop_path_rate: float) -> nn.Module:
        mid_channels = self.in_channels * expand_ratio
        block = InvertedResidual(
            self.in_channels,
            out_channels,
            mid_channels,
            stride=stride,
            se_cfg=dict(
                channels=mid_channels,
                squeeze_channels=max(1, int(self.in_channels * self.se_ratio)),
                act_cfg=(self._layer_cfg['act_cfg'], dict(type='Sigmoid')),
            ),
            drop_path_rate=drop_path_rate,
            with_cp=self.with_cp,
            **self._layer_cfg,
        )
        self.in_channels = out_channels
        return block


class _DroppedSELayer(SELayer):
    """An SE block whose output goes through stochastic depth."""

    drop_path: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(super().forward(x))


class StochasticDepthSEBottleneck(SEBottleneck):
    """:class:`SEBottleneck` of mmpretrain whose ``drop_path_rate`` has an effect: its parent never uses it.

    Its parameters have the same names as the parent's.
    """

    def __init__(self, in_channels: int, out_channels: int, se_ratio: int = 16, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, se_ratio=se_ratio, **kwargs)
        self.se_layer = _DroppedSELayer(
            out_channels, ratio=se_ratio, act_cfg=(kwargs.get('act_cfg', dict(type='ReLU')), dict(type='Sigmoid'))
        )
        self.se_layer.drop_path = self.drop_path


@MODELS.register_module()
class SEResNetV1d(ResNetV1d):
    """:class:`mmpretrain.models.ResNetV1d` with SE, any activation and stochastic depth in its blocks.

    Args:
        depth (int): One of 50, 101, 152.
        se_ratio (int): Channels of a block in units of those that SE squeezes them to. Defaults to 16.
        act_cfg (dict): Activation, except in the SE gate. Defaults to swish, which torch calls SiLU.
        **kwargs: Arguments of :class:`mmpretrain.models.ResNetV1d`, such as ``drop_path_rate``.

    Shape:
        Input (N, 3, H, W); output a tuple with (N, 2048, H / 32, W / 32).
    """

    arch_settings: ClassVar[dict[int, tuple[type, tuple[int, ...]]]] = {
        depth: (StochasticDepthSEBottleneck, blocks)
        for depth, (_, blocks) in ResNetV1d.arch_settings.items()
        if depth >= 50
    }

    def __init__(self, depth: int, se_ratio: int = 16, act_cfg: dict = _SWISH, **kwargs: Any) -> None:
        self.se_ratio = se_ratio
        self.act_cfg = act_cfg
        super().__init__(depth=depth, **kwargs)
        for layer in self.stem:  # the parent builds it with ReLU
            layer.activate = build_activation_layer(act_cfg)

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        return ResLayer(se_ratio=self.se_ratio, act_cfg=self.act_cfg, **kwargs)


class _WeightNormalizedSE:
    """Replaces both layers of every SE block by weight-normalised ones, which compute the same at the start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self, nn.Module)
        layers = [c.conv for m in self.modules() if isinstance(m, SELayer) for c in (m.conv1, m.conv2)]
        replace_layers(self, {layer: WNConv2d.from_plain(layer) for layer in layers})


@MODELS.register_module()
class WNSEMobileNetV2(_WeightNormalizedSE, SEMobileNetV2):
    """:class:`SEMobileNetV2` with weight-normalised layers in its SE blocks."""


@MODELS.register_module()
class WNSEResNetV1d(_WeightNormalizedSE, SEResNetV1d):
    """:class:`SEResNetV1d` with weight-normalised layers in its SE blocks."""


@MODELS.register_module()
class WNEfficientNet(_WeightNormalizedSE, EfficientNet):
    """:class:`mmpretrain.models.EfficientNet` with weight-normalised layers in its SE blocks."""
