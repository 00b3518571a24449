"""A batch of random images, boxes and masks for any detector of mmdet; a context for detectors in float64."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmdet.models.detectors.semi_base import SemiBaseDetector
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmfixnorm.core.audit.precision import single_precision
from mmfixnorm.core.input_channels import input_channels

__all__ = ['IMAGES', 'SIZE', 'adapt', 'double_precision', 'generate_batch', 'what_it_needs']

IMAGES, SIZE = 2, 192
_BOXES = 6
_PROPOSALS = 16


def generate_batch(
    model: nn.Module, *, images: int, size: tuple[int, int], dtype: torch.dtype, seed: int
) -> dict[str, Any]:
    """Generate a batch as a data loader returns it, before the model's data preprocessor.

    Each image has boxes from an eighth of its side to the whole side and a semantic mask; a detector uses those that it
    needs. Where a module of it is named after masks, the boxes have masks: an assigner that finds some uses them.

    Args:
        model (nn.Module): A detector. The augmentations of its preprocessor are removed, as they change the size.
        images (int): Number of images; they have as many channels as the model takes.
        size (tuple[int, int]): Height and width in pixels.
        dtype (torch.dtype): The dtype of the boxes.
        seed (int): Seed of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    preprocessor: Any = model.data_preprocessor
    preprocessor.batch_augments = None
    classes, in_masks = _class_counts(model)
    samples = [_sample(i, size, classes, in_masks, dtype, generator) for i in range(images)]
    if not any('mask' in f'{name} {type(module).__name__}'.lower() for name, module in model.named_modules()):
        for sample in samples:
            del sample.gt_instances.masks
    channels = input_channels(getattr(model, 'backbone', model), size)
    pixels = torch.randint(256, (images, channels, *size), generator=generator, dtype=torch.uint8)
    return dict(inputs=[*pixels], data_samples=samples)


def _class_counts(model: nn.Module) -> tuple[int, int]:
    """Return how many classes boxes and a semantic mask have; the mask may have stuff too, or those of HTC's head."""

    def counts(attribute: str) -> dict[str, int]:
        found = ((name, getattr(module, attribute, None)) for name, module in model.named_modules())
        return {name: count for name, count in found if isinstance(count, int)}

    if things := max(counts('num_things_classes').values(), default=0):
        return things, things + max(counts('num_stuff_classes').values(), default=0)
    of_masks = [n for name, n in counts('num_classes').items() if 'semantic' in name]
    of_boxes = [n for name, n in counts('num_classes').items() if 'semantic' not in name]
    classes = max(of_boxes or of_masks, default=1)
    return classes, max(of_masks, default=classes)


def _sample(
    index: int, size: tuple[int, int], classes: int, in_masks: int, dtype: torch.dtype, generator: torch.Generator
) -> DetDataSample:
    height, width = size
    sides = torch.tensor([width, height], dtype=torch.float64)
    lengths = sides * 2 ** (-3 * torch.rand(_BOXES, 2, generator=generator, dtype=torch.float64))
    corners = (sides - lengths) * torch.rand(_BOXES, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([corners, corners + lengths], dim=1)
    masks = np.zeros((_BOXES, height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(
        metainfo=dict(
            img_id=index,
            img_path='',
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            border=np.array([0, height, 0, width]),  # CenterNet
        )
    )
    labels = torch.randint(classes, (_BOXES,), generator=generator)
    sample.gt_instances = InstanceData(bboxes=boxes.to(dtype), labels=labels, masks=BitmapMasks(masks, height, width))
    sample.proposals = InstanceData(bboxes=boxes.to(dtype), scores=boxes.new_ones(_BOXES, dtype=dtype))  # Fast R-CNN
    sample.ignored_instances = InstanceData(bboxes=boxes.new_zeros(0, 4, dtype=dtype), labels=labels[:0])
    sample.gt_sem_seg = PixelData(sem_seg=torch.randint(in_masks, (1, height, width), generator=generator))
    return sample


def what_it_needs(model: nn.Module) -> str:
    """Say what a model trains on that a generated batch of images and boxes does not have; ``''`` if nothing."""
    if isinstance(model, SemiBaseDetector):
        return 'labelled and unlabelled images at once (semi-supervised)'
    if hasattr(model, 'language_model'):
        return 'text beside the images'
    if type(model.data_preprocessor).__name__.startswith('Line'):  # OneDL's, for lanes
        return 'lines, as lanes are'
    module = type(model).__module__
    if '.mot.' in module or '.vis.' in module:
        return 'videos'
    return 'the identities of persons' if '.reid.' in module else ''


def adapt(model: nn.Module) -> None:
    """Let the heads of a two-stage detector, a copy, look at few proposals of an image, in place.

    512 of them make up most of the time of a forward, and tell no more about its weights.
    """
    for module in model.modules():
        samplers: Any = getattr(module, 'bbox_sampler', None)  # one, or one for each stage
        for sampler in samplers if isinstance(samplers, (list, tuple)) else [samplers]:
            if isinstance(getattr(sampler, 'num', None), int):
                sampler.num = min(sampler.num, _PROPOSALS)


@contextmanager
def double_precision() -> Iterator[None]:
    """Let non-maximum suppression of mmcv accept boxes in float64, which on the CPU it would read as float32.

    It returns only indices, so the computations with the boxes stay in float64.
    """
    module = sys.modules['mmcv.ops.nms'].ext_module
    original = module.nms

    def nms(boxes: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        with single_precision():
            return original(boxes.float(), scores.float(), **kwargs)

    module.nms = nms
    try:
        yield
    finally:
        module.nms = original
