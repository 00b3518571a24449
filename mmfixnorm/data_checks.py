"""What a built data set says of itself: used before training, by the tools and by a hook."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ['category_names', 'class_names', 'leaf_datasets', 'listing']

_SHOWN = 10


def leaf_datasets(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The data sets inside any nesting of wrappers (ConcatDataset, RepeatDataset ...).

    Args:
        dataset: A built data set.
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


def class_names(dataset: Any) -> Sequence[str] | None:
    """``metainfo['classes']`` of a data set; None if it does not say."""
    metainfo = getattr(dataset, 'metainfo', None)
    return metainfo.get('classes') if isinstance(metainfo, Mapping) else None


def category_names(ann_file: str) -> list[str]:
    """Names of the categories of a COCO annotation file, which is read for it."""
    with open(ann_file, encoding='utf-8') as file:
        return [str(category['name']) for category in json.load(file)['categories']]


def listing(names: Sequence[Any]) -> str:
    """Names for a message, the first ten of them.

    Example:
        >>> listing(['car', 'bus'])
        "'car', 'bus'"
    """
    shown = ', '.join(map(repr, names[:_SHOWN]))
    more = len(names) - _SHOWN
    return f'{shown} and {more} more' if more > 0 else shown or 'none'
