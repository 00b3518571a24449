"""Write scikit-learn's digits as an image folder for mmpretrain's ``CustomDataset``.

1797 real images of 8 x 8 pixels come with scikit-learn, so nothing is downloaded. Each class
gives 40 images to ``val``, 40 to ``test`` and the rest to ``train``::

    data/digits/{train,val,test}/<0-9>/<index in load_digits, 4 places>.png

A grey value is 15 times the original, which goes from 0 to 16. A search ranks its trials on
``val``; ``test`` is for the one number that is reported at the end.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mmfixnorm.errors import ConfigError

HELD_OUT_PER_CLASS = {'val': 40, 'test': 40}
SPLIT_SEED = 0


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


def is_complete(out: Path, names: Sequence[str]) -> bool:
    """Whether ``out`` holds exactly the files ``names``."""
    return {p.relative_to(out).as_posix() for p in out.rglob('*') if p.is_file()} == set(names)


def convert(out: Path) -> bool:
    """Write the image folder ``out`` in one piece; do nothing where it is complete.

    Args:
        out (Path): The folder to make.

    Returns:
        bool: Whether it was written now.

    Raises:
        ConfigError: If ``out`` exists and is something else, or cannot be written.
    """
    files = digit_files()
    try:
        if out.exists():
            return _accept_existing(out, list(files))
        out.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed: whoever sees the folder sees all of it.
        part = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
        try:
            for name, image in files.items():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(part / name)
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
    parser.add_argument('--out', type=Path, default=Path('data/digits'), help='folder to make')
    args = parser.parse_args(argv)
    try:
        written = convert(args.out)
    except ConfigError as err:
        print(f'digits.py: {err}', file=sys.stderr)
        return 2
    print(f'{args.out}: {"written" if written else "complete already, left as it is"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
