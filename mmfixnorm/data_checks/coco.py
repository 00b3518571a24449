"""The required content of a COCO annotation file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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


def check_coco_file(ann_file: str, key: str, classes: Sequence[str] | None = None, *, annotated: bool = True) -> None:
    """Read an annotation file and check that it is in COCO format, with these classes.

    Slow for a large file: meant for explaining an error, not for preventing it.

    Args:
        ann_file (str): The file.
        key (str): Its config key.
        classes (Sequence[str], optional): The categories that it must have.
        annotated (bool): Whether it must have annotations, which the file of a test set may lack.

    Raises:
        ConfigError: If it is not, or lacks a class; the message states what the file contains.
    """
    content = _read_json(ann_file, key)
    if not isinstance(content, dict):
        raise ConfigError(f'{key}: {ann_file!r} contains a JSON {type(content).__name__}; {_EXPECTED}')
    for name, fields in _FIELDS.items():
        if name == 'annotations' and name not in content and not annotated:
            continue
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


def read_categories(ann_file: str, key: str) -> list[Mapping[str, Any]]:
    """Read the categories of a COCO annotation file without parsing the rest, which takes most of the time.

    Returns:
        list[Mapping]: Each with an ``id`` and a ``name``, in the order of the file.

    Raises:
        ConfigError: If the file cannot be read, or is not in COCO format.
    """
    try:
        with open(ann_file, 'rb') as file:
            content = file.read()
    except OSError as err:
        raise ConfigError(f'{key}: cannot read {ann_file!r} ({err.strerror})') from err
    lists = [_list_at(content, match.end()) for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', content)]
    if len(lists) == 1 and lists[0] and all(isinstance(e, dict) and {'id', 'name'} <= e.keys() for e in lists[0]):
        return lists[0]
    check_coco_file(ann_file, key)
    return _read_json(ann_file, key)['categories']


def _list_at(content: bytes, start: int) -> list[Any]:
    """Parse the JSON list that begins at a byte of a file; empty if there is none."""
    length = 1 << 20
    while True:
        try:
            # errors: the last character may be cut.
            return json.JSONDecoder().raw_decode(content[start : start + length].decode(errors='ignore'))[0]
        except ValueError:
            if start + length >= len(content):
                return []
            length *= 8


def check_category_labels(
    ann_file: str, key: str, names: Mapping[int, Any], category_ids: Sequence[int], classes: Sequence[str]
) -> None:
    """Check that the labels that a data set gives to categories are the places of their names in the classes.

    mmdet numbers the categories in the order of the file: a name that stands there twice takes two labels, and another
    order than that of the classes gives each label the name of another class.

    Args:
        ann_file (str): The file.
        key (str): Its config key, which ends in ``.ann_file``.
        names (Mapping[int, str]): Name of each category id in the file.
        category_ids (Sequence[int]): Ids of the categories that are used; the place of each is its label.
        classes (Sequence[str]): ``metainfo['classes']`` of the data set.

    Raises:
        ConfigError: If a name or an id stands for two labels, or if the order differs.
    """
    numbered = [names[i] for i in category_ids]
    twice = [name for name, count in Counter(numbered).items() if count > 1]
    if twice:
        ids = {name: [i for i in category_ids if names[i] == name] for name in twice}
        raise ConfigError(
            f'{key}: {ann_file!r} has more than one category of the name {listing(twice)} (ids {ids}). mmdet gives '
            'each a label of its own, so that the labels after it are one too high and the last one becomes '
            'background. Give the boxes of both one category_id, and delete the other category'
        )
    # Data sets that number all categories of the file, as LVIS does, may spell the names in another way.
    if Counter(numbered) == Counter(classes) and numbered != list(classes):
        label = next(i for i, name in enumerate(numbered) if name != classes[i])
        raise ConfigError(
            f'{key}: label {label} is {numbered[label]!r} in {ann_file!r}, but {classes[label]!r} in the classes of '
            f'the data set: mmdet numbers the categories in the order of the file. Set '
            f'{key.removesuffix("ann_file")}metainfo.classes={tuple(numbered)!r} in all data sets of the config, or '
            'put the categories of the file into the order of the classes'
        )


def check_categories(ann_file: str, key: str, categories: Sequence[Any], classes: Sequence[str]) -> None:
    """Check that an annotation file has all classes.

    Args:
        ann_file (str): The file.
        key (str): Its config key, which ends in ``.ann_file``.
        categories (Sequence): Names of its categories, which should be strings.
        classes (Sequence[str]): ``metainfo['classes']`` of the data set.

    Raises:
        ConfigError: If some are missing.
    """
    missing = [name for name in classes if name not in categories]
    if missing:
        numbers = [name for name in categories if not isinstance(name, str)]
        strings = f'; {listing(numbers)} is no string, and names of categories must be' if numbers else ''
        raise ConfigError(
            f'{key}: {ann_file!r} lacks {len(missing)} of the {len(classes)} classes of the data set: '
            f'{listing(missing)}. Its categories are {listing(categories)}{strings}. List those to use in '
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
