"""A small data set that is decoded once and augmented in whole batches, on the training device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.registry import FUNCTIONS
from mmpretrain.registry import DATASETS, TRANSFORMS
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from mmfixnorm.errors import ConfigError


@DATASETS.register_module()
class InMemoryDataset(Dataset):
    """Another data set, stored as one tensor of bytes on the device, from which whole batches are indexed.

    The wrapped data set's pipeline runs once for each image, when this data set is built: it loads, resizes
    and packs. Random transforms belong in ``batch_transforms``. A config can use it in place of the data set
    in any dataloader with ``num_workers=0``, ``pin_memory=False`` and ``collate_fn=dict(type='whole_batch')``.

    Args:
        dataset (dict | Dataset): A data set of mmpretrain. Its images must have one size, and
            ``N * 3 * H * W`` bytes must fit on the device.
        batch_transforms (Sequence[dict]): Registered transforms that take a batch (N, C, H, W), e.g.
            :class:`BatchRandomCrop`. Defaults to none.
        device (str, optional): Device of the images; by default the training device.

    Raises:
        ConfigError: If the images do not have one size, or the dataloader asks for another ``collate_fn``.

    Examples:
        >>> train_dataloader = dict(
        ...     batch_size=128, num_workers=0, pin_memory=False, collate_fn=dict(type='whole_batch'),
        ...     sampler=dict(type='DefaultSampler', shuffle=True),
        ...     dataset=dict(
        ...         type='InMemoryDataset',
        ...         dataset=dict(type='CustomDataset', data_root='data/cifar10/train', pipeline=load),
        ...         batch_transforms=[
        ...             dict(type='BatchRandomCrop', crop_size=32, padding=4), dict(type='BatchRandomFlip')]))
    """

    def __init__(
        self,
        dataset: dict | Dataset,
        batch_transforms: Sequence[dict] = (),
        device: str | None = None,
    ) -> None:
        source: Any = dataset
        self.dataset = DATASETS.build(source) if isinstance(source, dict) else source
        self.batch_transforms = [TRANSFORMS.build(transform) for transform in batch_transforms]
        packed = [self.dataset[i] for i in range(len(self.dataset))]
        shapes = {tuple(item['inputs'].shape) for item in packed}
        if len(shapes) > 1:
            raise ConfigError(
                'InMemoryDataset: the images of dataset must have one size, got '
                f'{sorted(shapes)[:3]}; resize them in its pipeline'
            )
        device = device or get_device()
        self.images = torch.stack([item['inputs'] for item in packed]).to(device) if packed else torch.empty(0)
        self.data_samples = [item['data_samples'] for item in packed]

    @property
    def metainfo(self) -> dict:
        """Meta information of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Do nothing: the images are already loaded."""

    def __len__(self) -> int:
        return len(self.data_samples)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """Make a batch: ``inputs`` (N, C, H, W), bytes on the device, and ``data_samples``, a list of N."""
        batch = self.images[torch.as_tensor(indices, device=self.images.device)]
        for transform in self.batch_transforms:
            batch = transform(batch)
        # New objects, because evaluation writes its predictions into them.
        return {'inputs': batch, 'data_samples': [self.data_samples[i].new() for i in indices]}


@FUNCTIONS.register_module()
def whole_batch(batch: Any) -> dict:
    """Pass on a batch of :class:`InMemoryDataset`, which needs no collating.

    Raises:
        ConfigError: If the data set returns single images.
    """
    if not isinstance(batch, dict):
        raise ConfigError("collate_fn: 'whole_batch' is for InMemoryDataset, got a list of single images")
    return batch


@TRANSFORMS.register_module()
class BatchRandomCrop:
    """Pad by zeros and crop each image of a batch at a position of its own, as mmpretrain's ``RandomCrop`` does.

    Args:
        crop_size (int): Height and width of the crops.
        padding (int): Zeros at each border. Defaults to 0.
    """

    def __init__(self, crop_size: int, padding: int = 0) -> None:
        self.crop_size = crop_size
        self.padding = padding

    def __call__(self, batch: Tensor) -> Tensor:
        """Crop (N, C, H, W) to (N, C, crop_size, crop_size)."""
        padded = functional.pad(batch, [self.padding] * 4)
        n, _, height, width = padded.shape
        if min(height, width) < self.crop_size:
            raise ConfigError(f'BatchRandomCrop.crop_size: {self.crop_size} is larger than {height} x {width}')
        # Drawn on the CPU: the same crops on every device, without waiting for it.
        tops = torch.randint(height - self.crop_size + 1, (n, 1, 1)).to(batch.device)
        lefts = torch.randint(width - self.crop_size + 1, (n, 1, 1)).to(batch.device)
        side = torch.arange(self.crop_size, device=batch.device)
        images = torch.arange(n, device=batch.device).view(n, 1, 1)
        # Advanced indices around a slice put the sliced dimension, the channels, last.
        return padded[images, :, tops + side.view(1, -1, 1), lefts + side.view(1, 1, -1)].permute(0, 3, 1, 2)


@TRANSFORMS.register_module()
class BatchRandomFlip:
    """Mirror each image of a batch left to right, or not, as mmpretrain's ``RandomFlip`` does.

    Args:
        prob (float): Probability. Defaults to 0.5.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, batch: Tensor) -> Tensor:
        """Mirror images of (N, C, H, W)."""
        flipped = (torch.rand(len(batch)) < self.prob).to(batch.device)
        return torch.where(flipped.view(-1, 1, 1, 1), batch.flip(-1), batch)
