"""Write scikit-learn's digits as a data set for mmpretrain, mmdet or mmseg.

1797 real images of 8 x 8 pixels come with scikit-learn, so nothing is downloaded. Each class
gives 40 images to ``val``, 40 to ``test`` and the rest to ``train``. A search ranks its trials on
``val``; ``test`` is for the one number that is reported at the end.

``--task cls``, an image folder for ``CustomDataset``; a grey value is 15 times the original::

    data/digits/{train,val,test}/<0-9>/<index in load_digits, 4 places>.png

``--task det``, COCO format for ``CocoDataset``: scenes of pasted digits, of which some overlap. A
split's scenes show digits of that split only. ``bbox`` and ``area`` are of all strokes, hidden ones
too; ``source`` is the index in ``load_digits``::

    data/digits_det/annotations/instances_{train,val,test}.json
    data/digits_det/{train,val,test}/<scene, 6 places>.png

``--task seg``, the same scenes in the folder layout of Cityscapes. Labels: 0 to 9 the strokes of
that digit, 10 the background, 255 void, the soft edge of a stroke::

    data/digits_seg/leftImg8bit/{train,val,test}/digits/digits_<scene>_000000_leftImg8bit.png
    data/digits_seg/gtFine/{train,val,test}/digits/digits_<scene>_000000_gtFine_labelTrainIds.png
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mmfixnorm.errors import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parent))  # absent when the script is loaded by its path
from digit_scenes import BACKGROUND, UNCERTAIN, Scene, paint

HELD_OUT_PER_CLASS = {'val': 40, 'test': 40}
SPLIT_SEED = 0
SCENES = {'train': 3000, 'val': 200, 'test': 200}
BACKGROUND_LABEL, VOID_LABEL = 10, 255


def split_of_each(labels: np.ndarray) -> list[str]:
    """Split ('train', 'val' or 'test') of each image, the same number per class held out."""
    splits = np.full(len(labels), 'train', dtype=object)
    for label in np.unique(labels):
        # RandomState: its stream is frozen for all NumPy versions, Generator's is not.
        order = np.random.RandomState([SPLIT_SEED, label]).permutation(np.flatnonzero(labels == label))
        first = 0
        for split, count in HELD_OUT_PER_CLASS.items():
            splits[order[first : first + count]] = split
            first += count
    return splits.tolist()


def digit_files() -> dict[str, np.ndarray]:
    """Relative path -> 8 x 8 uint8 image, for all 1797 digits."""
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    splits = split_of_each(digits.target)
    return {
        f'{split}/{label}/{index:04d}.png': image
        for index, (split, label, image) in enumerate(zip(splits, digits.target, images, strict=True))
    }


def scenes() -> Iterator[tuple[str, int, Scene]]:
    """Split, number in the split and scene, for all scenes."""
    digits = load_digits()
    splits = np.array(split_of_each(digits.target))
    for k, (split, count) in enumerate(SCENES.items()):
        candidates = np.flatnonzero(splits == split)
        for number in range(count):
            yield split, number, paint(digits.images, candidates, seed=(k, number))


def detection_files() -> dict[str, np.ndarray | dict[str, Any]]:
    """Relative path -> image or content of a JSON file."""
    target = load_digits().target
    annotations: dict[str, dict[str, Any]] = {}
    images: dict[str, np.ndarray] = {}
    for split, number, scene in scenes():
        content = annotations.setdefault(f'annotations/instances_{split}.json', _empty_annotations())
        name = f'{number:06d}.png'
        height, width = scene.owner.shape
        content['images'].append({'id': number, 'file_name': name, 'width': width, 'height': height})
        for source, box, area in zip(scene.sources, scene.boxes, scene.areas, strict=True):
            content['annotations'].append({
                'id': len(content['annotations']) + 1,  # COCO's evaluation takes id 0 for no match
                'image_id': number,
                'category_id': int(target[source]) + 1,
                'bbox': list(box),
                'area': area,
                'iscrowd': 0,
                'segmentation': [],
                'source': source,
            })  # fmt: skip
        images[f'{split}/{name}'] = scene.image
    return {**annotations, **images}


def _empty_annotations() -> dict[str, Any]:
    categories = [{'id': digit + 1, 'name': str(digit)} for digit in range(10)]
    return {'info': {}, 'licenses': [], 'images': [], 'annotations': [], 'categories': categories}


def segmentation_files() -> dict[str, np.ndarray]:
    """Relative path -> image or labels."""
    target = load_digits().target
    files = {}
    for split, number, scene in scenes():
        # Negative owners index from the end: background and void close the table.
        table = np.array([*target[scene.sources], 0, 0], dtype=np.uint8)
        table[BACKGROUND], table[UNCERTAIN] = BACKGROUND_LABEL, VOID_LABEL
        stem = f'{split}/digits/digits_{number:06d}_000000'
        files[f'leftImg8bit/{stem}_leftImg8bit.png'] = scene.image
        files[f'gtFine/{stem}_gtFine_labelTrainIds.png'] = table[scene.owner]
    return files


TASKS: dict[str, tuple[Callable[[], Mapping[str, np.ndarray | dict[str, Any]]], str]] = {
    'cls': (digit_files, 'data/digits'),
    'det': (detection_files, 'data/digits_det'),
    'seg': (segmentation_files, 'data/digits_seg'),
}


def is_complete(out: Path, names: Sequence[str]) -> bool:
    """Whether ``out`` holds exactly the files ``names``."""
    return {p.relative_to(out).as_posix() for p in out.rglob('*') if p.is_file()} == set(names)


def convert(out: Path, task: str = 'cls') -> bool:
    """Write the folder ``out`` in one piece; do nothing where it is complete.

    Args:
        out (Path): The folder to make.
        task (str): ``'cls'``, ``'det'`` or ``'seg'``. Defaults to ``'cls'``.

    Returns:
        bool: Whether it was written now.

    Raises:
        ConfigError: If ``out`` exists and is something else, or cannot be written.
    """
    files = TASKS[task][0]()
    try:
        if out.exists():
            return _accept_existing(out, list(files))
        out.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed: whoever sees the folder sees all of it.
        part = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
        try:
            for name, content in files.items():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, dict):
                    (part / name).write_text(json.dumps(content))
                else:
                    Image.fromarray(content).save(part / name)
            part.chmod(0o755)  # mkdtemp makes it private
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as err:
        if out.exists() and is_complete(out, list(files)):
            return False  # another process was faster
        raise ConfigError(f'--out: cannot write {out} ({err}); choose another folder') from err
    return True


def _accept_existing(out: Path, names: Sequence[str]) -> bool:
    if out.is_dir() and is_complete(out, names):
        return False
    raise ConfigError(f'--out: {out} exists and is not the complete digits folder; remove it or choose another folder')


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--task', choices=TASKS, default='cls', help='kind of data set (default: %(default)s)')
    defaults = ', '.join(out for _, out in TASKS.values())
    parser.add_argument('--out', type=Path, help=f'folder to make (default, by task: {defaults})')
    args = parser.parse_args(argv)
    out = args.out or Path(TASKS[args.task][1])
    try:
        written = convert(out, args.task)
    except ConfigError as err:
        print(f'digits.py: {err}', file=sys.stderr)
        return 2
    print(f'{out}: {"written" if written else "complete already, left as it is"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
