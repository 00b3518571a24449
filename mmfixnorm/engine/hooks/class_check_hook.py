"""Refuses a model and data with different classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfixnorm.data_checks.coco import listing
from mmfixnorm.data_checks.datasets import check_annotations, check_not_empty, class_names, leaf_datasets
from mmfixnorm.data_checks.labels import (
    LabelNames,
    class_folders,
    compare_labels,
    folder_of,
    label_names,
    largest_label,
    remark_on_folders,
    stray_folders,
)
from mmfixnorm.data_checks.masks import formats_of, nothing_to_learn, remarks, survey_masks
from mmfixnorm.engine.hooks.fix_norm_hook import unwrapped_model
from mmfixnorm.errors import ConfigError

# Region proposals know one class, the semantic branch of a detector has its own: by the names of their slots, or, as
# some stand in another slot, by the classes of mmdet. The boundaries of STDC are two classes.
_OTHER_SLOTS = {'rpn_head', 'semantic_head'}
_OTHER_HEADS = {'RPNHead', 'STDCHead'}
# Videos of mmdet, whose classes are all of the file, of which a tracker is trained for some.
_VIDEOS = {'BaseVideoDataset'}
_BATCHES = 1000  # in which masks are checked, where a loader has no length
_VOID = 255  # the label that data sets and metrics of mmseg ignore, whatever the head ignores


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Refuses, before the first step of a run, a setup that would train or count the wrong classes.

    Checked before training (with the validation data), validation and test:

    - every head with ``num_classes`` and a loss has as many classes as ``metainfo['classes']`` of the data, and no
      label of an image or box is beyond them;
    - the annotation file of a COCO data set has all of these categories, each once and in this order. mmdet numbers
      them in the order of the file, so that all labels after a missing one would be wrong;
    - a class has the same label in all data sets of training and validation, and in the data and the checkpoint of a
      test or a resumed run. Hidden folders that count as classes are warned of;
    - there is at least one image.

    The share of each class in 64 or more masks is logged, with a warning for classes that never occur and for files
    whose values the loader changes. Refused are masks of which one class alone trains, while all other pixels are
    ignored.

    Checked in the batches of the first pass over the data of each kind (1000 batches where a loader has no length): the
    labels of semantic masks are below ``num_classes``, or ignored. A label that random crops hide in this pass is not
    found. Not checked are data without class names, mmdet's videos, heads without ``num_classes``, region proposals and
    other heads with classes of their own, and the heads of detectors with a language model (GLIP, Grounding DINO),
    whose ``num_classes`` may be a number of text tokens. Changes nothing.

    Raises:
        ConfigError: If a check fails; the message names the config key.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._label_rules: set[tuple[int, int]] = set()
        self._checked_modes: set[str] = set()
        self._batches_left: dict[str, int] = {}
        self._known: LabelNames | None = None  # what the labels of the first data set, or of the checkpoint, stand for

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        classes = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
        if isinstance(classes, (list, tuple)):
            self._known = LabelNames('the training data of the checkpoint', tuple(map(str, classes)))

    def before_train(self, runner: Runner) -> None:
        if not getattr(runner, '_resume', False):  # else it trains other classes from the weights
            self._known = None
        self._check(runner, 'train')
        if runner.val_loop is not None:
            self._check(runner, 'val')

    def before_val(self, runner: Runner) -> None:
        self._check(runner, 'val')

    def before_test(self, runner: Runner) -> None:
        self._check(runner, 'test')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._check_batch('train', data_batch)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._check_batch('val', data_batch, void=_VOID)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._check_batch('test', data_batch, void=_VOID)

    def _check_batch(self, mode: str, data_batch: Any, void: int | None = None) -> None:
        if self._batches_left.get(mode, 0) > 0:
            self._batches_left[mode] -= 1
            check_masks(data_batch, self._label_rules, void)

    def _check(self, runner: Runner, mode: str) -> None:
        model = unwrapped_model(runner)
        self._label_rules = label_rules(model)
        if mode in self._checked_modes:  # validation of a run that trains
            return
        loader = getattr(getattr(runner, f'{mode}_loop'), 'dataloader', None)
        self._batches_left[mode] = len(loader) if isinstance(loader, Sized) else _BATCHES
        for key, dataset in leaf_datasets(getattr(loader, 'dataset', None), f'{mode}_dataloader.dataset'):
            if hasattr(dataset, 'full_init'):  # does nothing unless reading the annotations was deferred
                dataset.full_init()
            unused = check_annotations(dataset, key)
            check_not_empty(dataset, key)
            self._check_labels(runner, dataset, key)
            check_heads(model, dataset, key)
            if is_main_process():
                self._survey_masks(runner, dataset, key, mode)
            if unused:
                runner.logger.warning(
                    f'{key}.ann_file: {unused} categories of {dataset.ann_file!r} are not in '
                    f'{key}.metainfo.classes; their boxes are not used'
                )
        self._checked_modes.add(mode)

    def _check_labels(self, runner: Runner, dataset: Any, key: str) -> None:
        names = label_names(dataset, key)
        if names is None:
            return
        self._known = self._known or names
        if warning := compare_labels(self._known, names):
            runner.logger.warning(warning)
        if stray := stray_folders(class_folders(dataset) or ()):
            runner.logger.warning(f'{key}: {listing(stray)} in {folder_of(dataset)!r} counts as a class; is it one?')

    def _survey_masks(self, runner: Runner, dataset: Any, key: str, mode: str) -> None:
        """Log the share of each class in the masks, and warn of classes that never occur."""
        classes = class_names(dataset, key)
        ignored = {label for _, label in self._label_rules} | (set() if mode == 'train' else {_VOID})
        if classes is None or not self._label_rules or (survey := survey_masks(dataset, classes, ignored)) is None:
            return
        if mode == 'train' and (remark := nothing_to_learn(survey, classes, ignored)):
            raise ConfigError(f'{key}: {survey.name}: {remark}')
        shares = survey.shares(classes, ignored)
        runner.logger.info('; '.join([f'{key}: {survey.name}, in pixels: {shares}', *formats_of(survey)]))
        for remark in remarks(survey, classes, ignored):
            runner.logger.warning(f'{key}: {survey.name}: {remark}')


def heads(model: nn.Module) -> dict[str, Any]:
    """Return every module that classifies a fixed number of classes and has a loss, by its name."""
    by_text = tuple(f'{name}.'.lstrip('.') for name, m in model.named_modules() if hasattr(m, 'language_model'))
    return {
        name: module
        for name, module in model.named_modules()
        if name
        and isinstance(getattr(module, 'num_classes', None), int)
        and callable(getattr(module, 'loss', None))
        and not _OTHER_SLOTS & {*name.split('.')}
        and not _is_a(module, _OTHER_HEADS)
        and not name.startswith(by_text)
    }


def _is_a(thing: Any, names: set[str]) -> bool:
    """Tell whether a class of a toolbox, known by its name, is among those of an object."""
    return any(kind.__name__ in names for kind in type(thing).__mro__)


def _fitting_classes(dataset: Any, key: str) -> list[Sequence[str]]:
    """Return the classes that the heads may have: all; of panoptic data also the countable ones alone."""
    classes = class_names(dataset, key)
    if classes is None or _is_a(dataset, _VIDEOS):
        return []
    things = dataset.metainfo.get('thing_classes')
    return [classes, things] if things else [classes]


def check_heads(model: nn.Module, dataset: Any, key: str) -> None:
    """Compare the heads of a model to the classes of a data set.

    Raises:
        ConfigError: If the numbers of classes differ, or a label of the data is beyond those of the head.
    """
    of_data = _fitting_classes(dataset, key)
    largest, file = largest_label(dataset)
    for name, head in heads(model).items():
        fitting = {head.num_classes}
        if getattr(head, 'out_channels', None) == 1:  # one output separates two classes
            fitting |= {1, 2}
        if of_data and not fitting & {*map(len, of_data)}:
            classes = of_data[0]
            raise ConfigError(
                f'model.{name}.num_classes: {type(head).__name__} has {head.num_classes} classes, but {key} '
                f'({type(dataset).__name__}) has {len(classes)}: {listing(classes)}. Set num_classes={len(classes)}, '
                f'or list the classes to use in {key}.metainfo.classes.{remark_on_folders(dataset)}'
            )
        if largest >= max(fitting):
            raise ConfigError(
                f'model.{name}.num_classes: {type(head).__name__} has {head.num_classes} classes, so the labels are 0 '
                f'to {head.num_classes - 1}, but {key} has the label {largest} ({file}). Correct the labels, or set '
                f'num_classes={largest + 1}'
            )


def label_rules(model: nn.Module) -> set[tuple[int, int]]:
    """Return what semantic masks may contain, as pairs: labels below the first number, and the ignored second one."""
    rules = set()
    for head in heads(model).values():
        ignored, channels = getattr(head, 'ignore_index', None), getattr(head, 'out_channels', None)
        if isinstance(ignored, int) and isinstance(channels, int):
            rules.add((max(head.num_classes, 2) if channels == 1 else head.num_classes, ignored))
    return rules


def check_masks(data_batch: Any, rules: set[tuple[int, int]], void: int | None = None) -> None:
    """Check the semantic masks of a batch for labels beyond the classes.

    Args:
        data_batch (dict): Its ``data_samples`` may have ``gt_sem_seg.data``, shape (1, H, W), of integers.
        rules (set[tuple[int, int]]): See :func:`label_rules`.
        void (int, optional): Another ignored label.

    Raises:
        ConfigError: If there are such labels; the message names the file.
    """
    samples = data_batch.get('data_samples') if isinstance(data_batch, Mapping) else None
    if not rules or not isinstance(samples, Sequence):
        return
    for sample in samples:
        mask = getattr(getattr(sample, 'gt_sem_seg', None), 'data', None)
        if not isinstance(mask, Tensor) or not mask.numel():
            continue
        labels = labels_in(mask)
        for limit, ignored in rules:
            beyond = [n for n in labels if not 0 <= n < limit and n not in (ignored, void)]
            if beyond:
                file = getattr(sample, 'seg_map_path', None) or getattr(sample, 'img_path', 'a mask')
                raise ConfigError(
                    f'{file}: a mask with {limit} classes may contain the labels 0 to {limit - 1} and {ignored} '
                    f'(ignore_index), found {listing(beyond)}. Set num_classes of the heads and metainfo.classes of '
                    f'the data to the classes in the masks, reduce_zero_label=True if 0 is not a class, or '
                    f'ignore_index of the heads to the label to ignore'
                )


def labels_in(mask: Tensor) -> list[int]:
    """Return the values of a mask in ascending order; takes 1 ms for 769 x 769 pixels, a tenth of sorting them."""
    least, most = torch.aminmax(mask)
    if least >= 0 and most < 2**16 and not mask.is_floating_point():
        return np.flatnonzero(np.bincount(mask.flatten().cpu().numpy())).tolist()
    return torch.unique(mask).tolist()
