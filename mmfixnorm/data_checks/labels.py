"""Which class a label stands for: in a folder of classes, in an annotation file, and over all data sets of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmfixnorm.data_checks.coco import listing
from mmfixnorm.data_checks.datasets import class_names
from mmfixnorm.errors import ConfigError

# Folders that programs leave among others: archives of macOS, network disks, Windows, file systems, Python.
_STRAY = {'__MACOSX', '@eaDir', '#recycle', '$RECYCLE.BIN', 'System Volume Information', 'lost+found', '__pycache__'}
# Images whose labels are read: a second for data sets that store theirs as bytes.
_LIMIT = 50_000


class LabelNames(NamedTuple):
    """The classes of one data set in the order of their labels, and its config key."""

    key: str
    names: tuple[str, ...]


def class_folders(dataset: Any) -> tuple[str, ...] | None:
    """Return the folders that a data set of mmpretrain takes as classes, in the order of their labels; None without."""
    labels = getattr(dataset, 'folder_to_idx', None)
    return tuple(sorted(labels, key=labels.__getitem__)) if isinstance(labels, Mapping) else None


def label_names(dataset: Any, key: str) -> LabelNames | None:
    """Return what the labels of a built data set stand for; None if it does not say.

    Raises:
        ConfigError: If ``metainfo['classes']`` has the names of the class folders in another order than theirs.
    """
    classes, folders = class_names(dataset, key), class_folders(dataset)
    if classes is None or getattr(dataset, 'return_classes', False):  # prompts: each data set has its own
        return None
    if folders is not None and sorted(folders) == sorted(classes) and folders != tuple(classes):
        raise ConfigError(
            f'{key}.metainfo.classes: is {listing(classes)}, but the labels follow the sorted folders of '
            f'{folder_of(dataset)!r}: {listing(folders)}. Set metainfo.classes={folders!r}, or leave it out'
        )
    return LabelNames(key, tuple(map(str, classes)))


def compare_labels(first: LabelNames, second: LabelNames) -> str:
    """Check that no class has different labels in two data sets.

    Returns:
        str: A warning if the same labels have different names, none of which is in both data sets; else empty.

    Raises:
        ConfigError: If a class has another label in the second one.
    """
    labels, others = _labels_by_name(first.names), _labels_by_name(second.names)
    for name in second.names:
        if name in labels and labels[name] != others[name]:
            stray = stray_folders([*first.names, *second.names])
            raise ConfigError(
                f'{second.key}: class {name!r} has the label {_shown(others[name])}, but {_shown(labels[name])} in '
                f'{first.key}. The classes are {listing(second.names)} here and {listing(first.names)} there; every '
                'data set of a config must have the same classes in the same order'
                + (f'; {listing(stray)} looks like no class, but like a folder to delete' if stray else '')
            )
    pairs = zip(first.names, second.names, strict=False)
    label, pair = next(((i, p) for i, p in enumerate(pairs) if p[0] != p[1]), (0, None))
    return f'{second.key}: label {label} is {pair[1]!r}, but {pair[0]!r} in {first.key}' if pair else ''


def remark_on_folders(dataset: Any) -> str:
    """Name the class folders of a data set that look like no classes, in a sentence to append; empty without any."""
    folders = class_folders(dataset) or ()
    used = {label for info in evenly_spaced(dataset, len(dataset)) for label in _labels_of(info)} if folders else set()
    return remark_on_names(folder_of(dataset), folders, [n for label, n in enumerate(folders) if label not in used])


def remark_on_names(folder: str, names: Sequence[str], empty: Sequence[str] = ()) -> str:
    """Name the folders that are hidden or left by programs, and those without an image, in a sentence to append."""
    stray = stray_folders(names)
    empty = [name for name in empty if name not in stray]
    remarks = [f' Delete {listing(stray)} in {folder!r}: each folder there counts as a class.'] if stray else []
    return ''.join([*remarks, f' No image is in {listing(empty)} in {folder!r}.' if empty else ''])


def stray_folders(names: Sequence[str]) -> list[str]:
    """Return the names that are hidden, or that programs give to their own folders."""
    return [name for name in names if name.startswith('.') or name in _STRAY]


def folder_of(dataset: Any) -> str:
    """Return the folder of a data set of mmpretrain that holds its class folders."""
    return str(getattr(dataset, 'img_prefix', '') or getattr(dataset, 'data_root', ''))


def largest_label(dataset: Any) -> tuple[int, str]:
    """Return the largest label of an image or a box, and the file that has it; -1 if the data set knows none.

    Of more than 50,000 images every n-th one is read.
    """
    largest, file = -1, ''
    for info in evenly_spaced(dataset, _LIMIT):
        if 'gt_label' not in info and 'instances' not in info:
            break
        for label in _labels_of(info):
            if label > largest:
                largest, file = label, str(info.get('img_path', 'an image'))
    return largest, file


def evenly_spaced(dataset: Any, limit: int) -> Iterator[Mapping[str, Any]]:
    """Yield what a data set of mmengine knows of its images, at most ``limit`` of them, evenly spaced."""
    info_of = getattr(dataset, 'get_data_info', None)
    if callable(info_of) and len(dataset):
        for i in np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(int)).tolist():
            yield info_of(i)


def _labels_of(info: Mapping[str, Any]) -> list[int]:
    if 'gt_label' in info:
        labels = np.asarray(info['gt_label'])
        return labels.ravel().tolist() if labels.dtype.kind in 'iu' else []
    instances = info.get('instances') or ()
    return [i['bbox_label'] for i in instances if isinstance(i, Mapping) and isinstance(i.get('bbox_label'), int)]


def _labels_by_name(names: Sequence[str]) -> dict[str, list[int]]:
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(names):  # ImageNet has two cranes
        labels.setdefault(name, []).append(label)
    return labels


def _shown(labels: Sequence[int]) -> str:
    return ' and '.join(map(str, labels))
