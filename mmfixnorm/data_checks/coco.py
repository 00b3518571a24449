"""What a COCO annotation file must hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmfixnorm.errors import ConfigError

# List of the file -> what mmdet reads of each entry.
_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
_EXPECTED = "a COCO file is a JSON object with the lists 'images', 'annotations' and 'categories'"
_SHOWN = 10


def check_coco_file(ann_file: str, key: str, classes: Sequence[str] | None = None) -> None:
    """Read an annotation file and check that it is COCO's format, with these classes.

    Slow for a large file: to explain what went wrong, not to prevent it.

    Args:
        ann_file (str): The file.
        key (str): Its config key.
        classes (Sequence[str], optional): The categories that it must have.

    Raises:
        ConfigError: It is not, or lacks a class; the message says what was found.
    """
    content = _read_json(ann_file, key)
    if not isinstance(content, dict):
        raise ConfigError(f'{key}: {ann_file!r} holds a JSON {type(content).__name__}; {_EXPECTED}')
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
    """Names of the categories of a COCO annotation file, which is read for it."""
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
        ConfigError: It lacks some.
    """
    missing = [name for name in classes if name not in categories]
    if missing:
        raise ConfigError(
            f'{key}: {ann_file!r} lacks {len(missing)} of the {len(classes)} classes of the data set: '
            f'{listing(missing)}. Its categories are {listing(categories)}. Name those to use in '
            f'{key.removesuffix("ann_file")}metainfo.classes, and set num_classes of the heads to their number'
        )


def listing(names: Sequence[Any]) -> str:
    """Names for a message, the first ten of them.

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
    except ValueError as err:  # also of bytes that are no text
        raise ConfigError(f'{key}: {ann_file!r} is not JSON ({err}); {_EXPECTED}') from err
