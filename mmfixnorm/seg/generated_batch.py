"""A batch of random images and masks for any segmentor of mmseg."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors.depth_estimator import DepthEstimator
from mmseg.structures import SegDataSample
from torch import nn

from mmfixnorm.core.input_channels import input_channels

__all__ = ['IMAGES', 'SIZE', 'generate_batch', 'what_it_needs']

IMAGES, SIZE = 4, 128


def generate_batch(
    model: nn.Module, *, images: int, size: tuple[int, int], dtype: torch.dtype, seed: int
) -> dict[str, Any]:
    """Generate a batch as a data loader returns it, before the model's data preprocessor.

    Args:
        model (nn.Module): A segmentor. Its preprocessor is changed to leave the size as it is.
        images (int): Number of images; they have as many channels as the model takes.
        size (tuple[int, int]): Height and width in pixels.
        dtype (torch.dtype): Unused: images are uint8 and masks integers.
        seed (int): Seed of images and masks.
    """
    del dtype
    generator = torch.Generator().manual_seed(seed)
    preprocessor: Any = model.data_preprocessor
    # Images of any size, as they are.
    preprocessor.size, preprocessor.size_divisor, preprocessor.batch_augments = None, 1, None
    class_counts = (getattr(module, 'num_classes', None) for module in model.modules())
    classes = max((n for n in class_counts if isinstance(n, int)), default=2)
    samples = []
    for _ in range(images):
        # Blocks of 8 x 8 pixels, so that neighbouring pixels mostly agree.
        blocks = torch.randint(classes, (1, 1, -(-size[0] // 8), -(-size[1] // 8)), generator=generator)
        mask = torch.nn.functional.interpolate(blocks.double(), scale_factor=8)[0, :, : size[0], : size[1]].long()
        edges = (mask != mask.roll(1, -1)) | (mask != mask.roll(1, -2))
        sample = SegDataSample(gt_sem_seg=PixelData(data=mask), gt_edge_map=PixelData(data=edges.long()))
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size))
        samples.append(sample)
    channels = input_channels(getattr(model, 'backbone', model), size)
    pixels = torch.randint(256, (images, channels, *size), generator=generator, dtype=torch.uint8)
    return dict(inputs=[*pixels], data_samples=samples)


def what_it_needs(model: nn.Module) -> str:
    """Say what a model trains on that a generated batch of images and masks does not have; ``''`` if nothing."""
    if isinstance(model, DepthEstimator):
        return 'depth maps, without classes'
    return 'text beside the images' if hasattr(model, 'text_encoder') else ''
