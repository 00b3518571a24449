"""The files and folders that a config names."""

from __future__ import annotations

import glob
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

_NAMED = 5  # checkpoints that a message lists
_CHECKPOINTS = ('.pth', '.pt', '.pkl', '.ckpt', '.bin', '.tar')
_PREFIX = re.compile(r'[\w-]{2,}:')  # of an address, or of a storage that mmengine knows; not of a drive
#: Data sets of mmpretrain that download themselves; their data root need not exist.
_DOWNLOADED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')


def data_paths(cfg: Any, modes: Sequence[str] = ('train', 'val')) -> dict[str, str]:
    """Return the local files and folders that the given loops of a config read.

    Args:
        cfg (Config): A resolved config.
        modes (Sequence[str]): Any of ``'train'``, ``'val'`` and ``'test'``.

    Returns:
        dict[str, str]: Config key of each path, e.g.
        ``{'train_dataloader.dataset.data_prefix': 'data/digits/train'}``.
    """
    paths: dict[str, str] = {}
    for mode in modes:
        for key, dataset in dataset_configs(cfg, mode):
            paths.update(_dataset_paths(dataset, key))
        for key, metric in metric_configs(cfg, mode):
            ann_file = metric.get('ann_file')
            if isinstance(ann_file, str) and _is_local(ann_file) and not _behind_backend(metric):
                paths[f'{key}.ann_file'] = ann_file
    return paths


def check_exists(key: str, path: str) -> None:
    """Check that a path exists.

    Raises:
        ConfigError: If it does not.
    """
    if not os.path.exists(path):
        raise ConfigError(
            f'{key}: no such file or folder: {path!r} (in {os.getcwd()}); '
            'prepare the data set, or set the key to where it is'
        )


def weights_to_start_from(cfg: Any) -> dict[str, str]:
    """Return the checkpoints that a training starts from, files and addresses, by their config keys."""
    leaves = [*_leaves(cfg.get('model'), 'model'), ('load_from', cfg.get('load_from'))]
    return {
        key: value
        for key, value in leaves
        if isinstance(value, str) and (key == 'load_from' or key.rsplit('.', 1)[-1] in ('checkpoint', 'pretrained'))
    }


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    yield key, node
    for name, child in children:
        yield from _leaves(child, f'{key}.{name}')


def local_starts(cfg: Any) -> dict[str, str]:
    """Return those of :func:`weights_to_start_from` that are files of this machine.

    ``pretrained`` may also be a name that a package of its own knows: what does not end like a checkpoint is no file.
    """
    return {
        key: value
        for key, value in weights_to_start_from(cfg).items()
        if not _PREFIX.match(value) and (key == 'load_from' or value.endswith(_CHECKPOINTS))
    }


def check_checkpoint(path: str, option: str = '') -> None:
    """Check that a checkpoint is a file of this machine, and looks like one.

    Raises:
        ConfigError: If it is not; the message lists the newest checkpoints beside it. Or if it is another kind of file,
            or was cut off.
    """
    named = f'{option}{": " * bool(option)}'
    file = os.path.expanduser(path)
    if os.path.isfile(file):
        if not _looks_like_checkpoint(file):
            raise ConfigError(
                f'{named}{path}: not a checkpoint ({os.path.getsize(file)} bytes): a file of another kind, or one that '
                'was cut off while it was written or copied; take another one'
            )
        return
    beside = glob.glob(os.path.join(glob.escape(os.path.dirname(os.path.expanduser(path))), '*.pth'))
    others = sorted(filter(os.path.isfile, beside), key=_modified)
    there = f'; there are {", ".join(map(repr, others[-_NAMED:]))}' if others else ''
    raise ConfigError(f'{named}no such checkpoint: {path!r}{there}')


def _looks_like_checkpoint(file: str) -> bool:
    """Tell whether a file is an archive that torch writes, or a pickle, as its older versions wrote."""
    if zipfile.is_zipfile(file) or tarfile.is_tarfile(file):
        return True
    with open(file, 'rb') as opened:
        return opened.read(1) == pickle.PROTO or file.endswith('.pkl')


def _modified(path: str) -> float:
    try:
        return os.path.getmtime(path)
    except OSError:  # deleted meanwhile
        return 0.0


def dataset_configs(cfg: Any, mode: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the data sets of a loop with their keys, wrappers before their contents."""
    loader = cfg.get(f'{mode}_dataloader')
    if isinstance(loader, Mapping):
        yield from _nested(loader.get('dataset'), f'{mode}_dataloader.dataset')


def metric_configs(cfg: Any, mode: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the metrics of a loop with their keys."""
    if mode != 'train':
        yield from _nested(cfg.get(f'{mode}_evaluator'), f'{mode}_evaluator')


def _nested(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _nested(child, f'{key}.{i}')
    elif isinstance(node, Mapping):
        yield key, node
        for wrapped in ('dataset', 'datasets', 'metrics'):  # RepeatDataset, ConcatDataset, Evaluator ...
            yield from _nested(node.get(wrapped), f'{key}.{wrapped}')


def _dataset_paths(dataset: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    downloads = dataset.get('download', type_name(dataset.get('type', '')) in _DOWNLOADED)
    if downloads or _behind_backend(dataset):
        return  # downloaded, or behind a file backend, so there is no local path to check
    root = dataset.get('data_root') or ''
    if isinstance(root, str) and _is_local(root):
        yield f'{key}.data_root', root
    for name, value in _named_paths(dataset):
        path = os.path.join(root, value)
        if _is_local(value) and (_is_local(root) or not root):
            yield f'{key}.{name}', path


def _named_paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the paths of a data set that are relative to its root."""
    prefix = dataset.get('data_prefix')
    prefixes = prefix if isinstance(prefix, Mapping) else {'': prefix}
    for name, value in prefixes.items():
        if isinstance(value, str):
            yield f'data_prefix.{name}' if name else 'data_prefix', value
    if isinstance(dataset.get('ann_file'), str):
        yield 'ann_file', dataset['ann_file']


def _behind_backend(node: Mapping[str, Any]) -> bool:
    return bool(node.get('backend_args') or node.get('file_client_args'))


def _is_local(path: str) -> bool:
    return bool(path) and '://' not in path and not path.startswith('s3:')
