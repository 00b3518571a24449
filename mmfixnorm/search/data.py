"""The data folders of a config: are they there, and are they still the same?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from mmfixnorm.data_checks.paths import check_exists, data_paths

#: Entries of a folder tree that are looked at; enough to notice another data set.
_LISTING_LIMIT = 20_000


def check_data(cfg: Any) -> None:
    """Check that every data path of the config exists.

    Raises:
        ConfigError: One does not; the message names the key.
    """
    for key, path in data_paths(cfg).items():
        check_exists(key, path)


def describe_data(cfg: Any) -> dict[str, str]:
    """Return a short description of what is at each data path, to notice a change."""
    return {key: _describe(path) for key, path in data_paths(cfg).items()}


def _describe(path: str) -> str:
    if os.path.isfile(path):
        return f'file of {os.path.getsize(path)} bytes, content {_digest_of_file(path)}'
    names = [name for _, name in zip(range(_LISTING_LIMIT), _listing(path), strict=False)]
    digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12]
    more = ' or more' if len(names) == _LISTING_LIMIT else ''
    return f'folder of {len(names)}{more} entries, listing {digest}'


def _digest_of_file(path: str) -> str:
    # By content: an annotation file with one box moved is as long as before. A second for COCO's.
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _listing(path: str) -> Iterator[str]:
    """Names and sizes below a folder in a fixed order; names starting with a dot are left out."""
    folders = []
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.name.startswith('.'):
            continue
        if entry.is_dir():
            yield entry.path
            folders.append(entry.path)
        else:
            yield f'{entry.path} {entry.stat(follow_symlinks=False).st_size}'
    for folder in folders:
        yield from _listing(folder)
