"""Checks of built data sets: classes, annotations, number of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmfixnorm.data_checks.coco import check_categories, check_category_labels, read_categories
from mmfixnorm.errors import ConfigError


def leaf_datasets(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the data sets inside any nesting of wrappers (ConcatDataset, RepeatDataset ...).

    Args:
        dataset (Dataset): A built data set.
        key (str): Its config key.

    Yields:
        tuple[str, Dataset]: Config key and data set, e.g. ``train_dataloader.dataset.datasets.0``.
    """
    several = getattr(dataset, 'datasets', None)
    inner = getattr(dataset, 'dataset', None)
    if isinstance(several, Sequence):
        for i, child in enumerate(several):
            yield from leaf_datasets(child, f'{key}.datasets.{i}')
    elif inner is not None:
        yield from leaf_datasets(inner, f'{key}.dataset')
    else:
        yield key, dataset


def class_names(dataset: Any, key: str) -> Sequence[str] | None:
    """Return ``metainfo['classes']`` of a data set; None if it has none.

    Raises:
        ConfigError: If it is one string.
    """
    metainfo = getattr(dataset, 'metainfo', None)
    classes = metainfo.get('classes') if isinstance(metainfo, Mapping) else None
    if isinstance(classes, str):
        raise ConfigError(
            f'{key}.metainfo.classes: must be a tuple of names, got the string {classes!r}; '
            f'a single class is written classes=({classes!r},)'
        )
    return classes


def check_not_empty(dataset: Any, key: str) -> None:
    """Check that a data set has an image, as an infinite sampler would wait for the first one for ever.

    Raises:
        ConfigError: If it has none.
    """
    if hasattr(dataset, '__len__') and len(dataset) == 0:
        raise ConfigError(no_image_left(key))


def no_image_left(key: str) -> str:
    """Return the message for a data set without any image."""
    return (
        f'{key}: no image is left; check its files, filter_cfg (drops images without a box of metainfo.classes, '
        'and small ones) and indices'
    )


def check_annotations(dataset: Any, key: str) -> int:
    """Compare the categories that a COCO data set has read from its file to its classes.

    Returns:
        int: Number of categories with boxes that are not among the classes, and so not used.

    Raises:
        ConfigError: If the file lacks some of the classes, has one twice, or has them in another order.
    """
    classes, category_ids = class_names(dataset, key), getattr(dataset, 'cat_ids', None)
    ann_file = getattr(dataset, 'ann_file', None)
    if classes is None or category_ids is None or not isinstance(ann_file, str):
        return 0
    if os.path.isfile(ann_file):
        categories = read_categories(ann_file, f'{key}.ann_file')
        names = {category['id']: category['name'] for category in categories}  # a number is not its text for mmdet
        if len(category_ids) < len(classes):
            check_categories(ann_file, f'{key}.ann_file', list(names.values()), classes)
        check_category_labels(ann_file, f'{key}.ann_file', names, category_ids, classes)
    return len(set(getattr(dataset, 'cat_img_map', ())) - set(category_ids))
