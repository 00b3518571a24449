"""Backbones for small images that mmpretrain lacks: few channels, or small strides."""

from __future__ import annotations

from typing import Any, ClassVar

from mmpretrain.models.backbones import MobileNetV2, ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import MODELS


@MODELS.register_module()
class ThinResNetCIFAR(ResNet_CIFAR):
    """The three-stage residual network for CIFAR of He et al. 2016, section 4.2.

    ``6n + 2`` weighted layers: a 3x3 stem, three stages of ``n`` basic blocks with 16, 32 and 64
    channels, and the classifier. It differs from that paper in one point: a shortcut that changes
    the shape is a 1x1 convolution with its norm layer, as everywhere in mmpretrain, and not a
    padded identity (about 1 % more parameters). A norm layer follows every convolution, so all of
    them are scale-invariant in training.

    Args:
        depth (int): One of 8, 14, 20, 32, 44, 56, 110. Defaults to 20.
        base_channels (int): Channels of the stem and of the first stage. Defaults to 16.
        num_stages (int): Number of stages, 1 to 3. Defaults to 3.
        **kwargs: Other arguments of :class:`mmpretrain.models.ResNet_CIFAR`.

    Raises:
        ValueError: If ``depth`` is not one of these.

    Shape:
        Input (N, 3, H, W); output a tuple with (N, 4 * base_channels, H / 4, W / 4).

    Examples:
        >>> import torch
        >>> from mmfixnorm.cls.backbones import ThinResNetCIFAR
        >>> [tuple(out.shape) for out in ThinResNetCIFAR(20)(torch.rand(2, 3, 32, 32))]
        [(2, 64, 8, 8)]
    """

    arch_settings: ClassVar[dict[int, tuple[type, tuple[int, ...]]]] = {
        6 * n + 2: (BasicBlock, (n, n, n)) for n in (1, 2, 3, 5, 7, 9, 18)
    }

    def __init__(self, depth: int = 20, *, base_channels: int = 16, num_stages: int = 3, **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            raise ValueError(f'depth must be one of {sorted(self.arch_settings)}, got {depth!r}')
        kwargs.setdefault('stem_channels', base_channels)
        kwargs.setdefault('strides', (1, 2, 2)[:num_stages])
        kwargs.setdefault('dilations', (1, 1, 1)[:num_stages])
        kwargs.setdefault('out_indices', (num_stages - 1,))
        super().__init__(depth, base_channels=base_channels, num_stages=num_stages, **kwargs)


@MODELS.register_module()
class MobileNetV2CIFAR(MobileNetV2):
    """:class:`mmpretrain.models.MobileNetV2` for images of 32 x 32.

    The stem and the second stage keep the resolution, so that the last map is 4 x 4 and not
    1 x 1: total stride 8. Weights and arguments are the same as in ``MobileNetV2``.

    Args:
        *args: Arguments of :class:`mmpretrain.models.MobileNetV2`.
        **kwargs: Keyword arguments of the same.

    Shape:
        Input (N, 3, H, W); output a tuple with (N, 1280, H / 8, W / 8).
    """

    # expand_ratio, channel, num_blocks, stride: only the second stage's stride differs
    arch_settings: ClassVar[list[list[int]]] = [
        [*layer[:3], 1] if i == 1 else layer for i, layer in enumerate(MobileNetV2.arch_settings)
    ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The parent hard-codes the stem's stride in its constructor. A stride is not part of the
        # weights, so changing it on the layer affects neither initialisation nor checkpoints.
        self.conv1.conv.stride = (1, 1)
        self.conv1.stride = (1, 1)
