"""Data as the tutorials on own photos, boxes and masks have it, in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny.data import SIZE, pictures

PARTS = ('train', 'val', 'test')
CLASSES = ('cat', 'dog')  # of the page on boxes


def write_photos(root: Path, classes: int = 10) -> None:
    """Write one photo of each class for each part."""
    for part in PARTS:
        for i, (image, _) in enumerate(pictures(classes, seed=0)):
            path = root / f'{part}/class_{i}/{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def write_boxes(root: Path, num: int = 4) -> None:
    """Write one folder of images and a file in COCO's format for each part."""
    (root / 'images').mkdir(parents=True)
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    for seed, part in enumerate(PARTS):
        images, annotations = [], []
        for i, (image, boxes) in enumerate(pictures(num, seed)):
            Image.fromarray(image).save(root / f'images/{part}_{i}.jpg')
            images.append(dict(id=i, file_name=f'{part}_{i}.jpg', width=SIZE, height=SIZE))
            for (x, y, w, h), label in boxes:
                about = dict(id=len(annotations), image_id=i, category_id=label + 1, iscrowd=0)
                annotations.append(dict(about, bbox=[x, y, w, h], area=w * h))
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{part}.json').write_text(json.dumps(content))


def write_masks(root: Path, num: int = 4) -> None:
    """Write images, and masks of two classes with a row that is ignored."""
    mask = (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 2).astype(np.uint8)
    mask[0] = 255
    for seed, part in enumerate(PARTS):
        for i, (image, _) in enumerate(pictures(num, seed)):
            for path, pixels in ((f'img/{part}/{i}.jpg', image), (f'ann/{part}/{i}.png', mask)):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / path)
