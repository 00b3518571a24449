"""An image folder of which a fixed part is used."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from mmfixnorm.errors import ConfigError


@DATASETS.register_module()
class SubsetCustomDataset(CustomDataset):
    """:class:`mmpretrain.datasets.CustomDataset` with an equal number of images of each class.

    The images of each class are ordered by a permutation that depends only on ``subset_seed`` and
    on their number; ``subset`` selects places in that order. So two data sets with ``subset=4500``
    and ``subset=(4500, 5000)`` share no image (a training and a validation split of one folder),
    and ``subset=500`` is a part of ``subset=4500``.

    Args:
        *args: Arguments of ``CustomDataset``.
        subset (int | tuple[int, int], optional): Number of images per class, or first and end
            place. All images if ``None``. Defaults to ``None``.
        subset_seed (int): Seed of the order. Defaults to 0.
        **kwargs: Keyword arguments of ``CustomDataset``.

    Raises:
        ConfigError: If ``subset`` is not such a number or range, or a class has too few images.

    Examples:
        >>> train = SubsetCustomDataset(data_root='data/cifar10/train', subset=500)
    """

    def __init__(
        self,
        *args: Any,
        subset: int | tuple[int, int] | None = None,
        subset_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.subset_range = None if subset is None else _place_range(subset)
        self.subset_seed = subset_seed
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load image paths and labels as the parent does, then keep the subset, in their order."""
        data_list = super().load_data_list()
        if self.subset_range is None:
            return data_list
        labels = np.array([info['gt_label'] for info in data_list])
        classes = range(len(self.CLASSES)) if self.CLASSES else np.unique(labels).tolist()
        kept = np.concatenate([self._places(labels, label) for label in classes])
        return [data_list[i] for i in np.sort(kept)]

    def _places(self, labels: np.ndarray, label: int) -> np.ndarray:
        """Return the indices of the subset's images of one class."""
        assert self.subset_range is not None
        first, end = self.subset_range
        indices = np.flatnonzero(labels == label)
        if len(indices) < end:
            name = self.CLASSES[label] if self.CLASSES else label
            raise ConfigError(
                f'subset: class {name!r} has {len(indices)} images in {self.img_prefix}, '
                f'fewer than the {end} that subset={self.subset_range} needs; '
                'lower subset or complete the folder'
            )
        # RandomState, whose stream is the same in all NumPy versions, unlike Generator's.
        order = np.random.RandomState([self.subset_seed, label]).permutation(indices)
        return order[first:end]


def _place_range(subset: int | tuple[int, int]) -> tuple[int, int]:
    """Check ``subset`` and return its first and end place."""
    pair = tuple(subset) if isinstance(subset, (tuple, list)) else (0, subset)
    if len(pair) != 2 or any(type(place) is not int for place in pair) or not 0 <= pair[0] < pair[1]:
        raise ConfigError(
            'subset must be a number of images per class > 0, or a pair (first, end) with '
            f'0 <= first < end, got {subset!r}'
        )
    return pair
