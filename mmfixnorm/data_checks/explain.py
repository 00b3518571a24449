"""Explains why a data set could not be built, from the files that its config names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mmengine.registry import DATASETS

from mmfixnorm.data_checks.coco import check_coco_file, listing
from mmfixnorm.data_checks.datasets import no_image_left
from mmfixnorm.data_checks.labels import remark_on_names
from mmfixnorm.data_checks.paths import check_exists, data_paths, dataset_configs, metric_configs
from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

_NO_ENTRIES = 'need at least one array to concatenate'  # NumPy's, in BaseDataset of mmengine

_FOLDERS = 'The number of subfolders'  # mmpretrain's, in CustomDataset
_NO_FILES = re.compile(r'Found 0 files in subfolders of: (.*)')  # the same


def explain_failure(err: BaseException, cfg: Any, mode: str) -> None:
    """Find the config key behind an error from building a loop.

    Files are checked only after an error, as reading a large annotation file twice costs seconds.

    Args:
        err (BaseException): The error.
        cfg (Config): The config.
        mode (str): ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ConfigError: If the reason was found. Otherwise the function returns.
    """
    causes = [err]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(cause, (OSError, AssertionError)) for cause in causes):
        for key, path in data_paths(cfg, [mode]).items():
            check_exists(key, path)
    for key, ann_file, classes in _coco_files(cfg, mode):
        if os.path.isfile(ann_file):
            check_coco_file(ann_file, key, classes, annotated=mode != 'test')
    if any(_FOLDERS in str(cause) for cause in causes):
        _check_class_folders(cfg, mode)
    for found in filter(None, (_NO_FILES.search(str(cause)) for cause in causes)):
        raise ConfigError(
            f'{mode}_dataloader.dataset: no image in the folders below {found[1].splitlines()[0]}; each class has a '
            'folder of its images there. Check data_root, data_prefix and extensions'
        ) from err
    if any(_NO_ENTRIES in str(cause) for cause in causes):
        raise ConfigError(no_image_left(f'{mode}_dataloader.dataset')) from err


def _check_class_folders(cfg: Any, mode: str) -> None:
    """Compare the class folders of mmpretrain's data sets to their classes."""
    paths = data_paths(cfg, [mode])
    for key, dataset in dataset_configs(cfg, mode):
        kind = _dataset_class(dataset)
        classes = (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes')
        classes = classes or getattr(kind, 'METAINFO', {}).get('classes')
        folder = paths.get(f'{key}.data_prefix') or paths.get(f'{key}.data_root')
        if folder is None or isinstance(classes, (str, type(None))) or not os.path.isdir(folder):
            continue
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if len(names) != len(classes):
            raise ConfigError(
                f'{key}: has {len(classes)} classes, but {folder!r} has {len(names)} folders: {listing(names)}.'
                f'{remark_on_names(folder, names)} mmpretrain takes each folder as a class'
            )


def _coco_files(cfg: Any, mode: str) -> list[tuple[str, str, Any]]:
    """Return key, path and classes of the annotation files that must be in COCO format."""
    paths, files = data_paths(cfg, [mode]), []
    for key, dataset in dataset_configs(cfg, mode):
        kind = _dataset_class(dataset)
        if _reads_coco(kind):
            own = (dataset.get('metainfo') or {}).get('classes')
            files.append((f'{key}.ann_file', own or getattr(kind, 'METAINFO', {}).get('classes')))
    metrics = [(key, type_name(metric.get('type', ''))) for key, metric in metric_configs(cfg, mode)]
    files += [(f'{key}.ann_file', None) for key, name in metrics if name == 'CocoMetric']
    return [(key, paths[key], classes) for key, classes in files if key in paths]


def _reads_coco(kind: Any) -> bool:
    """Tell whether a class is mmdet's CocoDataset, or derives from it without changing how it reads the file."""

    def owner(name: str) -> type | None:
        return next((c for c in getattr(kind, '__mro__', ()) if name in vars(c)), None)

    return hasattr(kind, 'COCOAPI') and owner('COCOAPI') is owner('load_data_list')


def _dataset_class(dataset: Mapping[str, Any]) -> Any:
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)
