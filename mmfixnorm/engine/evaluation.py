"""Asks an evaluator before a run what it would only say after the first validation.

The metrics of the toolboxes get a made-up prediction of one image, so what they refuse and how they name their numbers
comes from themselves. Metrics that other packages bring are not asked.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner, TestLoop, ValLoop

from mmfixnorm.data_checks.coco import listing, read_categories
from mmfixnorm.data_checks.datasets import class_names, leaf_datasets
from mmfixnorm.data_checks.labels import evenly_spaced
from mmfixnorm.data_checks.paths import metric_configs
from mmfixnorm.engine.hooks.class_check_hook import heads
from mmfixnorm.engine.hooks.fix_norm_hook import unwrapped_model
from mmfixnorm.errors import ConfigError

__all__ = ['check_evaluation']

_SIDE = 16
_PLAIN_LOOPS = (ValLoop, TestLoop)


def check_evaluation(runner: Runner, mode: str) -> set[str] | None:
    """Check what can only fail at the first validation: settings of metrics, their files, the metrics that hooks name.

    Args:
        runner (Runner): With the loop of this mode already built.
        mode (str): ``'val'`` or ``'test'``.

    Returns:
        set[str]: Names of the numbers that the evaluator reports; None if a metric cannot be asked, or there is none.

    Raises:
        ConfigError: If a metric refuses its settings, if its annotation file does not belong to the data, or if a hook
            names a number that is not reported.
    """
    loop = getattr(runner, f'{mode}_loop')
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', None)
    if not metrics:
        return None
    keys = [key for key, cfg in metric_configs(runner.cfg, mode) if 'metrics' not in cfg]
    if len(keys) != len(metrics):
        keys = [f'{mode}_evaluator'] * len(metrics)
    dataset = getattr(loop.dataloader, 'dataset', None)
    for key, metric in zip(keys, metrics, strict=True):
        for data_key, leaf in leaf_datasets(dataset, f'{mode}_dataloader.dataset'):
            _check_coco_file(metric, key, leaf, data_key)
    classes = _number_of_classes(runner, dataset, mode)
    reported = [_reported_by(metric, key, classes) for key, metric in zip(keys, metrics, strict=True)]
    if type(loop) not in _PLAIN_LOOPS or any(names is None for names in reported):
        return None
    names = {name for own in reported for name in own or ()}
    if mode == 'val':
        _check_named(runner, names)
    return names


def _number_of_classes(runner: Runner, dataset: Any, mode: str) -> int | None:
    known = {head.num_classes for head in heads(unwrapped_model(runner)).values()}
    if len(known) == 1:
        return known.pop()
    classes = class_names(dataset, f'{mode}_dataloader.dataset')
    return None if classes is None else len(classes)


def _reported_by(metric: Any, key: str, classes: int | None) -> set[str] | None:
    """Return how a metric names its numbers, with its prefix; None if it cannot be asked.

    Raises:
        ConfigError: If it refuses its own settings.
    """
    makers = {type(metric).process.__module__, type(metric).compute_metrics.__module__}
    sample = next((make for module, make in _SAMPLES.items() if makers == {module}), None)
    if sample is None or not classes or getattr(metric, 'format_only', False):
        return None
    asked = copy.copy(metric)
    asked.results, asked._dataset_meta = [], dict(metric.dataset_meta or {})
    asked._dataset_meta.setdefault('classes', tuple(map(str, range(classes))))
    for name in ('_coco_api', 'cat_ids', 'img_ids', 'output_dir', 'outfile_prefix'):  # its files, read and written
        if hasattr(asked, name):
            setattr(asked, name, None)
    if len(asked._dataset_meta['classes']) != classes:
        return None  # the class check says so
    try:
        with _quiet():
            asked.process({}, [sample(classes)])
            numbers = asked.compute_metrics(asked.results)
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as err:
        text = str(err.args[0]) if err.args else str(err)
        raise ConfigError(f'{key}: {type(metric).__name__} refuses its settings for {classes} classes: {text}') from err
    return {f'{metric.prefix}/{name}' if metric.prefix else name for name in numbers}


def _classified(classes: int) -> dict[str, Any]:
    scores = torch.zeros(classes)
    scores[0] = 1.0
    return dict(pred_score=scores, pred_label=torch.tensor([0]), gt_label=torch.tensor([0]), gt_score=scores)


def _segmented(classes: int) -> dict[str, Any]:
    mask = torch.zeros(1, _SIDE, _SIDE, dtype=torch.long)
    return dict(pred_sem_seg=dict(data=mask), gt_sem_seg=dict(data=mask), img_path='')


def _detected(classes: int) -> dict[str, Any]:
    box = [2.0, 2.0, 10.0, 10.0]
    masks = torch.zeros(1, _SIDE, _SIDE, dtype=torch.bool)
    masks[0, 2:10, 2:10] = True
    outline = [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]]
    found = dict(bboxes=torch.tensor([box]), scores=torch.tensor([1.0]), labels=torch.tensor([0]), masks=masks)
    instances = [dict(bbox=box, bbox_label=0, ignore_flag=0, mask=outline)]
    return dict(pred_instances=found, img_id=1, ori_shape=(_SIDE, _SIDE), instances=instances)


# Module of a metric's methods -> its prediction of one image with this number of classes, all of it right.
_SAMPLES: dict[str, Callable[[int], dict[str, Any]]] = {
    'mmpretrain.evaluation.metrics.single_label': _classified,
    'mmpretrain.evaluation.metrics.multi_label': _classified,
    'mmseg.evaluation.metrics.iou_metric': _segmented,
    'mmdet.evaluation.metrics.coco_metric': _detected,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tables that metrics print about the made-up image out of the log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _check_coco_file(metric: Any, key: str, dataset: Any, data_key: str) -> None:
    """Compare the annotation file of a COCO metric to the data set that it evaluates.

    Raises:
        ConfigError: If it lacks images of the data set, has others under their ids, or numbers the classes otherwise.
    """
    truth, category_ids = getattr(metric, '_coco_api', None), getattr(dataset, 'cat_ids', None)
    if truth is None or category_ids is None or not hasattr(dataset, 'get_data_info'):
        return
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    lacking, files = [], {}
    for info in evenly_spaced(dataset, len(dataset)):
        image, path = truth.imgs.get(info.get('img_id')), str(info.get('img_path'))
        if image is None:
            lacking.append(path)
        elif not path.endswith(str(image.get('file_name', path)).lstrip('./')):
            files[path] = image['file_name']
    hint = f'Set {key}.ann_file to the annotation file of {data_key} ({getattr(dataset, "ann_file", None)!r})'
    if lacking:
        raise ConfigError(f'{key}.ann_file: lacks {len(lacking)} images of {data_key}: {listing(lacking)}. {hint}')
    if files:
        path, other = next(iter(files.items()))
        raise ConfigError(f'{key}.ann_file: the id of {path!r} in {data_key} belongs to {other!r} there. {hint}')
    classes, ann_file = class_names(dataset, data_key) or (), getattr(dataset, 'ann_file', '')
    if not os.path.isfile(ann_file):
        return
    names = {category['id']: category['name'] for category in read_categories(ann_file, f'{data_key}.ann_file')}
    numbered = [names[i] for i in category_ids]
    evaluated = [truth.cats[i]['name'] for i in truth.getCatIds(catNms=list(classes))]
    if evaluated != numbered:
        raise ConfigError(
            f'{key}.ann_file: numbers the classes as {listing(evaluated)}, but {data_key} as {listing(numbered)}. '
            f'{hint}'
        )


def _check_named(runner: Runner, names: set[str]) -> None:
    """Check the numbers that hooks wait for against those that the evaluator reports."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best is not None:
            chosen = [hook.save_best] if isinstance(hook.save_best, str) else hook.save_best
            unknown = [name for name in chosen if name != 'auto' and not _is_reported(name, names)]
            if unknown:
                raise ConfigError(_not_reported('default_hooks.checkpoint.save_best', unknown, names))
        elif isinstance(hook, EarlyStoppingHook) and not _is_reported(hook.monitor, names):
            message = _not_reported('custom_hooks: EarlyStoppingHook.monitor', [hook.monitor], names)
            if hook.strict:
                raise ConfigError(message)
            runner.logger.warning(f'{message}; so it stops nothing')


def _is_reported(name: str, names: set[str]) -> bool:
    return name in names or 'loss' in name  # mmengine adds the losses of a validation, if the model returns any


def _not_reported(key: str, unknown: Sequence[str], names: set[str]) -> str:
    return f'{key}: the evaluator does not report {listing(unknown)}; it reports {listing(sorted(names))}'
