"""The share of each class in the masks of a data set for segmentation, as its own pipeline loads them."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

_FIRST, _MOST = 64, 512  # masks that are read; more than the first ones only while a class is missing
_SHOWN = 30
_LABELS = 256
# Mode of Pillow -> how the values of such a file become labels. A grey file of 8 bits is the usual one.
_FORMATS = {
    '1': 'are 1-bit images: white is label 1',
    'P': 'are palette images: the label is the index of a colour, not the colour',
    'I': 'are 32-bit images, of which the loader keeps 8 bits',
    'I;16': 'are 16-bit images, of which the loader keeps 8 bits',
    'F': 'are images of floats, which the loader cuts to integers of 8 bits',
}


@dataclass
class MaskSurvey:
    """What some masks of a data set contain.

    Attributes:
        total: Masks of the data set.
        files: Masks that were read.
        pixels: Number of pixels of each label, shape (256,), int64.
        formats: Number of files of each kind that is not 8-bit grey, by the mode of Pillow.
        cut: Files with values above 255, which the loader changes, to the largest of them.
    """

    total: int
    files: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(_LABELS, dtype=np.int64))
    formats: Counter[str] = field(default_factory=Counter)
    cut: dict[str, int] = field(default_factory=dict)

    def absent(self, classes: Sequence[str], ignored: Collection[int]) -> dict[int, str]:
        """Return the classes that no pixel has, by their label."""
        return {i: name for i, name in enumerate(classes) if not self.pixels[i] and i not in ignored}

    def shares(self, classes: Sequence[str], ignored: Collection[int]) -> str:
        """List the share of each class and of the ignored pixels, at most 30 of them, the largest ones."""
        total = max(int(self.pixels.sum()), 1)
        labels = [*range(len(classes)), *(int(i) for i in np.flatnonzero(self.pixels) if i >= len(classes))]
        largest = sorted(labels, key=lambda i: -self.pixels[i])[:_SHOWN]
        parts = []
        for label in sorted(largest):
            name = 'ignored' if label in ignored else classes[label] if label < len(classes) else 'no class'
            parts.append(f'{label} {name} {self.pixels[label] / total:.2%}')
        more = f' and {len(labels) - len(parts)} smaller ones' if len(labels) > len(parts) else ''
        return ', '.join(parts) + more

    @property
    def name(self) -> str:
        """The masks in words, e.g. ``64 of 367 masks``."""
        return f'all {self.total} masks' if self.files == self.total else f'{self.files} of {self.total} masks'


def survey_masks(dataset: Any, classes: Sequence[str], ignored: Collection[int]) -> MaskSurvey | None:
    """Read masks of a data set of mmseg, drawn by a fixed seed, until each class has occurred; 64 to 512 of them.

    Args:
        dataset (BaseSegDataset): Built; its pipeline has the transform that loads masks.
        classes (Sequence[str]): Its classes.
        ignored (Collection[int]): Labels that are ignored.

    Returns:
        MaskSurvey: None if the data set has no masks on this machine.
    """
    loader = next((t for t in _transforms(dataset) if hasattr(t, '_load_seg_map')), None)
    if loader is None or not hasattr(dataset, 'reduce_zero_label') or not len(dataset):
        return None
    survey = MaskSurvey(total=len(dataset))
    for i in np.random.RandomState(0).permutation(len(dataset))[:_MOST].tolist():
        if survey.files >= _FIRST and not survey.absent(classes, ignored):
            break
        info = copy.deepcopy(dataset.get_data_info(i))
        path = str(info.get('seg_map_path') or '')
        if not os.path.isfile(path):
            return None  # a test without masks, or a mask that is told by the loader when it is missing
        copy.copy(loader)._load_seg_map(info)
        if info['gt_seg_map'].ndim > 2:
            return None  # colours, which the pipeline refuses
        _note_format(survey, path)
        survey.pixels += np.bincount(info['gt_seg_map'].ravel().astype(np.uint8), minlength=_LABELS)
        survey.files += 1
    return survey


def remarks(survey: MaskSurvey, classes: Sequence[str], ignored: Collection[int]) -> list[str]:
    """Return what is odd about masks, in sentences: values that are cut, classes that never occur."""
    found = []
    if survey.cut:
        path, value = max(survey.cut.items(), key=lambda item: item[1])
        found.append(
            f'{len(survey.cut)} of them have values above 255, up to {value} in {path!r}, which the loader reads '
            f'modulo 256 ({value} as {value % _LABELS}). Write the masks as 8-bit images of labels'
        )
    if absent := survey.absent(classes, ignored):
        names = ', '.join(f'{name!r} ({label})' for label, name in list(absent.items())[:_SHOWN])
        more = f' and {len(absent) - _SHOWN} more' if len(absent) > _SHOWN else ''
        hidden = [i for i in ignored if survey.pixels[i]]
        hint = f'; {" and ".join(map(str, hidden))} is ignored, so it trains no class' if hidden else ''
        found.append(
            f'no pixel of {names}{more}. They contain {survey.shares(classes, ignored)}{hint}. If these values stand '
            'for other classes, write the labels 0, 1, ... into the masks'
        )
    return found


def nothing_to_learn(survey: MaskSurvey, classes: Sequence[str], ignored: Collection[int]) -> str:
    """Say that masks of several classes teach one alone, as all other pixels are ignored; or return ``''``."""
    present = [i for i in range(len(classes)) if survey.pixels[i] and i not in ignored]
    hidden = [i for i in ignored if survey.pixels[i]]
    if len(classes) < 2 or len(present) > 1 or not hidden:
        return ''
    return (
        f'they contain {survey.shares(classes, ignored)}, so every pixel that trains is of one class, and a model that '
        f'always says it has a perfect score. {" and ".join(map(str, hidden))} is ignored: if it stands for a class, '
        f'write its label, 0 to {len(classes) - 1}, into the masks'
    )


def formats_of(survey: MaskSurvey) -> list[str]:
    """Tell how files that are not 8-bit grey images become labels."""
    return [f'{n} of {survey.files} {_FORMATS[mode]}' for mode, n in survey.formats.items()]


def _transforms(dataset: Any) -> list[Any]:
    return list(getattr(getattr(dataset, 'pipeline', None), 'transforms', ()))


def _note_format(survey: MaskSurvey, path: str) -> None:
    with Image.open(path) as image:
        mode = 'I;16' if image.mode.startswith('I;16') else image.mode
        if mode not in _FORMATS:
            return
        survey.formats[mode] += 1
        if mode not in ('1', 'P') and (largest := int(np.max(np.asarray(image)))) >= _LABELS:
            survey.cut[path] = largest
