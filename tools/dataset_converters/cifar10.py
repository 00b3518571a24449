"""Unpack CIFAR-10 as an image folder for mmpretrain's ``CustomDataset``.

The archive is either of these, told apart by what is inside:

- ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, the official ones from
  https://www.cs.toronto.edu/~kriz/cifar.html: images are written as PNG, without loss;
- a tar archive of an image folder, ``{train,test}/<class>/*``: files are taken as they are.

The result is ``data/cifar10/{train,test}/<class>/*``.
"""

from __future__ import annotations

import argparse
import codecs
import io
import lzma
import pickle
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mmfixnorm.errors import ConfigError

SOURCE = 'https://www.cs.toronto.edu/~kriz/cifar.html'
CLASSES = (
    'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'
)  # fmt: skip
SPLITS = ('train', 'test')
IMAGES_PER_CLASS = {'train': 5000, 'test': 1000}
PIXELS = 3 * 32 * 32
Member = tuple[str, bytes]
DAMAGED = (
    tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, pickle.UnpicklingError, KeyError,
    IndexError, ValueError,
)  # fmt: skip


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for the official batches: an archive must not run code of its own."""

    # NumPy 2 renamed the module in which the official batches look for _reconstruct
    allowed: ClassVar[dict[str, Any]] = {
        'numpy.core.multiarray._reconstruct': np.empty(0).__reduce__()[0],
        'numpy._core.multiarray._reconstruct': np.empty(0).__reduce__()[0],
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        '_codecs.encode': codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in self.allowed:
            raise pickle.UnpicklingError(f'{module}.{name} has no place in a CIFAR-10 batch')
        return self.allowed[f'{module}.{name}']


def python_batch(raw: bytes) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, 3072) uint8 and labels of a batch of the official python archive."""
    batch = _ArraysOnly(io.BytesIO(raw), encoding='bytes').load()
    return batch[b'data'], batch[b'labels']


def binary_batch(raw: bytes) -> tuple[np.ndarray, list[int]]:
    """The same for the official binary archive: rows of a label and 3072 pixels."""
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0].tolist()


def png_files(path: PurePosixPath, raw: bytes, first: Counter[str]) -> Iterator[Member]:
    """Name and PNG content of each image of an official batch; ``first`` counts per class."""
    pixels, labels = (binary_batch if path.suffix == '.bin' else python_batch)(raw)
    split = 'test' if path.stem == 'test_batch' else 'train'
    for row, label in zip(pixels, labels, strict=True):
        folder = f'{split}/{CLASSES[label]}'
        content = io.BytesIO()
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(content, 'png')
        yield f'{folder}/{first[folder]:04d}.png', content.getvalue()
        first[folder] += 1


def image_files(archive: tarfile.TarFile) -> Iterator[Member]:
    """Name relative to the data folder, and content, of every image in the archive."""
    first: Counter[str] = Counter()
    for entry in archive:
        path = PurePosixPath(entry.name)
        stream = archive.extractfile(entry) if entry.isfile() else None
        if stream is None:
            continue
        if path.stem == 'test_batch' or path.stem.startswith('data_batch_'):
            yield from png_files(path, stream.read(), first)
        elif path.parts[-3:-2] and path.parts[-3] in SPLITS and path.parts[-2] in CLASSES:
            yield '/'.join(path.parts[-3:]), stream.read()


def count_images(folder: Path) -> dict[str, int]:
    """Number of files per split and class, for example ``{'train/cat': 5000, ...}``."""
    return {
        f'{split}/{name}': sum(1 for _ in (folder / split / name).glob('*')) for split in SPLITS for name in CLASSES
    }


def is_complete(folder: Path) -> bool:
    """Whether every class has its 5000 and 1000 images."""
    return all(count == IMAGES_PER_CLASS[name.split('/')[0]] for name, count in count_images(folder).items())


def unpack(archive: Path, folder: Path) -> None:
    """Write the images in ``archive`` below ``folder``, which must become complete."""
    try:
        with tarfile.open(archive) as tar:
            for name, content in image_files(tar):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
    except DAMAGED as err:
        raise ConfigError(f'{archive}: damaged ({err}); get it again from {SOURCE}') from err
    if not is_complete(folder):
        found = {name: count for name, count in count_images(folder).items() if count}
        raise ConfigError(
            f'{archive}: not all of CIFAR-10, expected 5000 and 1000 images per class, found '
            f'{found or "none"}; get cifar-10-python.tar.gz from {SOURCE}'
        )


def convert(archive: Path, out: Path) -> bool:
    """Unpack ``archive`` to the image folder ``out`` in one piece; skip where it is complete.

    Args:
        archive (Path): One of the archives named above.
        out (Path): The folder to make.

    Returns:
        bool: Whether it was written now.

    Raises:
        ConfigError: If the archive is missing, damaged or not CIFAR-10, or ``out`` is something
            else or cannot be written.
    """
    if out.is_dir() and is_complete(out):
        return False
    if out.exists():
        raise ConfigError(f'--out: {out} exists and is not all of CIFAR-10; remove it or choose another folder')
    if not archive.is_file():
        raise ConfigError(f'{archive}: no such file; download cifar-10-python.tar.gz from {SOURCE} and give its path')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed: whoever sees the folder sees all of it.
        part = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
        try:
            unpack(archive, part)
            part.chmod(0o755)  # mkdtemp makes it private
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as err:
        raise ConfigError(f'--out: cannot unpack {archive} to {out} ({err})') from err
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('archive', type=Path, help='cifar-10-python.tar.gz, or an image folder')
    parser.add_argument('--out', type=Path, default=Path('data/cifar10'), help='folder to make')
    args = parser.parse_args(argv)
    try:
        written = convert(args.archive, args.out)
    except ConfigError as err:
        print(f'cifar10.py: {err}', file=sys.stderr)
        return 2
    print(f'{args.out}: {"written" if written else "complete already, left as it is"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
