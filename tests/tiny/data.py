"""Data of a few small pictures for tests: coloured boxes on noise, as COCO annotations or as masks."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
COLOURS = ((230, 30, 30), (30, 30, 230))  # of the two classes
NAMES = ('red', 'blue')


def pictures(num: int, seed: int):
    """Pictures, and for each the boxes ``(x, y, w, h)`` with their classes."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        image = rng.integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
        boxes = []
        for label, corner in enumerate(((4, 4), (34, 34))):
            x, y = (int(corner[i] + rng.integers(0, 4)) for i in range(2))
            w, h = (int(n) for n in rng.integers(18, 24, 2))
            image[y : y + h, x : x + w] = COLOURS[label]
            boxes.append(((x, y, w, h), label))
        yield image, boxes


def write_detection(root: Path, num: int = 4) -> Path:
    """Write ``train`` and ``val`` as COCO: two pictures' folders and two annotation files."""
    for seed, split in enumerate(('train', 'val')):
        folder = root / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for i, (image, boxes) in enumerate(pictures(num, seed)):
            Image.fromarray(image).save(folder / f'{i}.png')
            images.append(dict(id=i, file_name=f'{i}.png', width=SIZE, height=SIZE))
            for (x, y, w, h), label in boxes:
                box = dict(id=len(annotations), image_id=i, category_id=label + 1, iscrowd=0)
                annotations.append(dict(box, bbox=[x, y, w, h], area=w * h))
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(NAMES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{split}.json').write_text(json.dumps(content))
    return root


def write_segmentation(root: Path, num: int = 4) -> Path:
    """Write ``img/{train,val}`` and ``ann/{train,val}``: 0 is the ground, 1 and 2 the boxes, a row of 255."""
    for seed, split in enumerate(('train', 'val')):
        for i, (image, boxes) in enumerate(pictures(num, seed)):
            mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
            for (x, y, w, h), label in boxes:
                mask[y : y + h, x : x + w] = label + 1
            mask[0] = 255
            for kind, pixels in (('img', image), ('ann', mask)):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f'{i}.png')
    return root
