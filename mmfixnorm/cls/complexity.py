"""Parameters and multiply-adds of a classifier, counted as in papers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.config import ConfigDict
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from mmfixnorm.core.input_channels import input_channels
from mmfixnorm.errors import ConfigError


class Complexity(NamedTuple):
    """``macs``: multiply-adds of convolutions and linear layers for one image, which papers call FLOPs."""

    params: int
    macs: int


def count_complexity(cfg: ConfigDict, image_size: int) -> Complexity:
    """Count the parameters and multiply-adds of a classifier.

    Args:
        cfg (ConfigDict): The ``model`` of a config of mmpretrain: an ``ImageClassifier`` with a backbone of
            convolutions.
        image_size (int): Height and width of the image, in pixels.
    """
    model = MODELS.build(cfg).eval().to('meta')
    channels = input_channels(model.backbone, (image_size, image_size))
    image = torch.empty(1, channels, image_size, image_size, device='meta')
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image, mode='tensor')
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def evaluation_image_size(cfg: ConfigDict) -> int:
    """Return the size in pixels to which the test pipeline of a config crops.

    Raises:
        ConfigError: If the pipeline has no crop, or one that is not square.
    """
    crops = [t.crop_size for t in cfg.test_dataloader.dataset.pipeline if 'crop_size' in t]
    if not crops:
        raise ConfigError('test_dataloader.dataset.pipeline has no transform with crop_size, the image size')
    sides = {*crops[-1]} if isinstance(crops[-1], (list, tuple)) else {crops[-1]}
    if len(sides) > 1:
        raise ConfigError(f'test_dataloader.dataset.pipeline: crop_size must be square, got {crops[-1]}')
    return int(sides.pop())
