"""Networks small enough for hundreds of trainings on a CPU, and their layout in memory."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mmfixnorm.cls.backbones import MobileNetV2CIFAR, ThinResNetCIFAR
from mmfixnorm.core.layers import WeightNormalized


@MODELS.register_module()
class HalfResNet(ThinResNetCIFAR):
    """:class:`ThinResNetCIFAR` with a stem of stride 2: a quarter of the work, all else equal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1.stride = (2, 2)  # no part of the weights


@MODELS.register_module()
class ShallowMobileNetV2(MobileNetV2CIFAR):
    """:class:`MobileNetV2CIFAR` with six blocks, expanded by 3, and a stem of stride 2."""

    # expand_ratio, channel, num_blocks, stride
    arch_settings: ClassVar[list[list[int]]] = [[1, 16, 1, 1], [3, 24, 1, 1], [3, 32, 2, 2], [3, 64, 2, 2]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1.conv.stride = (2, 2)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Puts convolutions into the ``channels_last`` layout, which trains faster and computes the same."""

    def before_train(self, runner: Runner) -> None:
        """Change the strides of the weights; the optimizer holds the very tensors."""
        runner.model.to(memory_format=torch.channels_last)


@HOOKS.register_module()
class ProjectedScaleHook(Hook):
    """Puts each ``g`` back to its bound after the step; with the bound in the forward pass alone it may run on."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Project; ``g`` at its bound then has a gradient."""
        for module in runner.model.modules():
            if isinstance(module, WeightNormalized):
                module.g.data.clamp_(max=module.scale_bound)
