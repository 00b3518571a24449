"""A batch of random images and labels for any classifier of mmpretrain."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models.heads.multi_task_head import MultiTaskHead, loss_convertor
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from mmpretrain.structures import DataSample, MultiTaskDataSample
from torch import nn

from mmfixnorm.core.input_channels import input_channels

__all__ = ['IMAGES', 'SIZE', 'adapt', 'generate_batch', 'what_it_needs']

IMAGES, SIZE = 3, 224


def generate_batch(
    model: nn.Module, *, images: int, size: tuple[int, int], dtype: torch.dtype, seed: int
) -> dict[str, Any]:
    """Generate a batch as a data loader returns it, before the model's data preprocessor.

    Args:
        model (nn.Module): A classifier; the number of classes is read from its head.
        images (int): Number of images; they have as many channels as the model takes.
        size (tuple[int, int]): Height and width in pixels.
        dtype (torch.dtype): Unused: images are uint8 and labels integers.
        seed (int): Seed of images and labels.
    """
    del dtype
    generator = torch.Generator().manual_seed(seed)
    samples = _samples(getattr(model, 'head', None), images, generator)
    channels = input_channels(getattr(model, 'backbone', model), size)
    pixels = torch.randint(256, (images, channels, *size), generator=generator, dtype=torch.uint8)
    return dict(inputs=[*pixels], data_samples=samples)


def _samples(head: Any, images: int, generator: torch.Generator) -> list[Any]:
    """Generate a sample with a label for each image; for each task of a head with several tasks."""
    tasks = getattr(head, 'task_heads', None)
    if tasks is None:
        classes = getattr(head, 'num_classes', None) or 2
        labels = torch.randint(classes, (images,), generator=generator).tolist()
        return [DataSample().set_gt_label(label) for label in labels]
    samples = [MultiTaskDataSample() for _ in range(images)]
    for task, own in tasks.items():
        for sample, part in zip(samples, _samples(own, images, generator), strict=True):
            sample.set_field(part, task)
    return samples


def what_it_needs(model: nn.Module) -> str:
    """Say what a model trains on that a generated batch of images and labels does not have; ``''`` if nothing."""
    if isinstance(model, BaseSelfSupervisor):
        return 'views of images without classes (self-supervised)'
    return 'text beside the images' if '.multimodal.' in type(model).__module__ else ''


def adapt(model: nn.Module) -> None:
    """Let the losses of a copy belong to the copy, in place.

    ``MultiTaskHead`` replaces the ``loss`` of each of its heads by a function that calls the original one. A copy of
    the model would have the function, and so compute with the heads that it was copied from.
    """
    for head in model.modules():
        if isinstance(head, MultiTaskHead):
            for task, own in head.task_heads.items():
                vars(own).pop('loss', None)
                own.loss = loss_convertor(own.loss, task)
