"""The data folders of a config: are they there, and are they still the same?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmfixnorm.errors import ConfigError

#: Data sets of mmpretrain that download themselves into a data root that need not exist.
_DOWNLOADED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')
#: Entries of a folder tree that are looked at; enough to notice another data set.
_LISTING_LIMIT = 20_000


def data_paths(cfg: Any) -> dict[str, str]:
    """Return the local files and folders that training and validation read.

    Args:
        cfg (Config): A resolved config.

    Returns:
        dict[str, str]: Config key of each path, e.g.
        ``{'train_dataloader.dataset.data_prefix': 'data/digits/train'}``.
    """
    paths: dict[str, str] = {}
    for loader in ('train_dataloader', 'val_dataloader'):
        node = (cfg.get(loader) or {}).get('dataset')
        paths.update(_dataset_paths(node, f'{loader}.dataset'))
    return paths


def check_data(cfg: Any) -> None:
    """Check that every data path of the config exists.

    Raises:
        ConfigError: One does not; the message names the key.
    """
    for key, path in data_paths(cfg).items():
        if not os.path.exists(path):
            raise ConfigError(
                f'{key}: no such file or folder: {path!r} (in {os.getcwd()}); '
                'prepare the data set, or set the key to where it is'
            )


def describe_data(cfg: Any) -> dict[str, str]:
    """Return a short description of what is at each data path, to notice a change."""
    return {key: _describe(path) for key, path in data_paths(cfg).items()}


def _dataset_paths(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _dataset_paths(child, f'{key}.{i}')
    if not isinstance(node, Mapping):
        return
    for wrapped in ('dataset', 'datasets'):  # RepeatDataset, ConcatDataset ...
        yield from _dataset_paths(node.get(wrapped), f'{key}.{wrapped}')
    downloads = node.get('download', str(node.get('type')) in _DOWNLOADED)
    if downloads or node.get('backend_args') or node.get('file_client_args'):
        return  # fetched, or behind a file backend: not ours to check
    root = node.get('data_root') or ''
    if isinstance(root, str) and _is_local(root):
        yield f'{key}.data_root', root
    for name, value in _named_paths(node):
        path = os.path.join(root, value)
        if _is_local(value) and (_is_local(root) or not root):
            yield f'{key}.{name}', path


def _named_paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths of a data set that are relative to its root."""
    prefix = dataset.get('data_prefix')
    prefixes = prefix if isinstance(prefix, Mapping) else {'': prefix}
    for name, value in prefixes.items():
        if isinstance(value, str):
            yield f'data_prefix.{name}' if name else 'data_prefix', value
    if isinstance(dataset.get('ann_file'), str):
        yield 'ann_file', dataset['ann_file']


def _is_local(path: str) -> bool:
    return bool(path) and '://' not in path and not path.startswith('s3:')


def _describe(path: str) -> str:
    if os.path.isfile(path):
        return f'file of {os.path.getsize(path)} bytes'
    names = [name for _, name in zip(range(_LISTING_LIMIT), _listing(path), strict=False)]
    digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12]
    more = ' or more' if len(names) == _LISTING_LIMIT else ''
    return f'folder of {len(names)}{more} entries, listing {digest}'


def _listing(path: str) -> Iterator[str]:
    """Names below a folder in a fixed order; names starting with a dot are left out."""
    folders = []
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.name.startswith('.'):
            continue
        yield entry.path
        if entry.is_dir():
            folders.append(entry.path)
    for folder in folders:
        yield from _listing(folder)
