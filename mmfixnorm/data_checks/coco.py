"""The required content of a COCO annotation file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmfixnorm.errors import ConfigError

# List in the file -> fields that mmdet reads from each entry.
_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
_EXPECTED = "a COCO file is a JSON object with the lists 'images', 'annotations' and 'categories'"
_SHOWN = 10


def check_coco_file(ann_file: str, key: str, classes: Sequence[str] | None = None) -> None:
    """Read an annotation file and check that it is in COCO format, with these classes.

    Slow for a large file: meant for explaining an error, not for preventing it.

    Args:
        ann_file (str): The file.
        key (str): Its config key.
        classes (Sequence[str], optional): The categories that it must have.

    Raises:
        ConfigError: If it is not, or lacks a class; the message states what the file contains.
    """
    content = _read_json(ann_file, key)
    if not isinstance(content, dict):
        raise ConfigError(f'{key}: {ann_file!r} contains a JSON {type(content).__name__}; {_EXPECTED}')
    for name, fields in _FIELDS.items():
        entries = content.get(name)
        if not isinstance(entries, list):
            got = f'{name!r} is a {type(entries).__name__}' if name in content else f'there is no {name!r}'
            raise ConfigError(f'{key}: {ann_file!r}: {got} (it has {listing(list(content))}); {_EXPECTED}')
        for i, entry in enumerate(entries):
            missing = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            if missing:
                raise ConfigError(f'{key}: {ann_file!r}: {name}[{i}] lacks {listing(missing)}; {_EXPECTED}')
    if classes is not None:
        check_categories(ann_file, key, [c['name'] for c in content['categories']], classes)


def category_names(ann_file: str, key: str) -> list[str]:
    """Read the names of the categories from a COCO annotation file."""
    check_coco_file(ann_file, key)
    return [str(category['name']) for category in _read_json(ann_file, key)['categories']]


def check_categories(ann_file: str, key: str, categories: Sequence[str], classes: Sequence[str]) -> None:
    """Check that an annotation file has all classes.

    Args:
        ann_file (str): The file.
        key (str): Its config key, which ends in ``.ann_file``.
        categories (Sequence[str]): Names of its categories.
        classes (Sequence[str]): ``metainfo['classes']`` of the data set.

    Raises:
        ConfigError: If some are missing.
    """
    missing = [name for name in classes if name not in categories]
    if missing:
        raise ConfigError(
            f'{key}: {ann_file!r} lacks {len(missing)} of the {len(classes)} classes of the data set: '
            f'{listing(missing)}. Its categories are {listing(categories)}. List those to use in '
            f'{key.removesuffix("ann_file")}metainfo.classes, and set num_classes of the heads to their number'
        )


def listing(names: Sequence[Any]) -> str:
    """Format names for a message, at most ten of them.

    Example:
        >>> listing(['car', 'bus'])
        "'car', 'bus'"
    """
    shown = ', '.join(map(repr, names[:_SHOWN]))
    more = len(names) - _SHOWN
    return f'{shown} and {more} more' if more > 0 else shown or 'none'


def _read_json(ann_file: str, key: str) -> Any:
    try:
        with open(ann_file, encoding='utf-8') as file:
            return json.load(file)
    except OSError as err:
        raise ConfigError(f'{key}: cannot read {ann_file!r} ({err.strerror})') from err
    except ValueError as err:  # UnicodeDecodeError is a ValueError too
        raise ConfigError(f'{key}: {ann_file!r} is not JSON ({err}); {_EXPECTED}') from err
