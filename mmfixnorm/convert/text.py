"""The text of a config file."""

from __future__ import annotations

import keyword
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from mmfixnorm.errors import ConfigError

__all__ = ['config_text']

_WIDTH = 118
_LITERALS = (type(None), bool, int, float, bytes)  # whose repr Python reads back


def config_text(title: str, sections: Sequence[tuple[str, Any, Sequence[str]]]) -> str:
    """Write a config file of Python.

    Args:
        title (str): Comment at the top.
        sections (Sequence): Triples of a key, its value, and sentences for comments above it. A path becomes a string,
            and a number of NumPy one of Python.

    Raises:
        ConfigError: If a value has no literal, such as a tensor; the message names its key.

    Example:
        >>> print(config_text('Small.', [('model', dict(head=dict(alpha=1.0)), ['The bound is high.'])]), end='')
        # Small.
        <BLANKLINE>
        # The bound is high.
        model = dict(head=dict(alpha=1.0))
    """
    lines = _comment(title)
    for key, value, comments in sections:
        if key == '_base_':  # a path can be longer than a line
            lines.append(f'{key} = {value!r}')
            continue
        if comments:
            lines.append('')
        for comment in comments:
            lines += _comment(comment)
        lines.append(f'{key} = {_formatted(value, key, 0, len(key) + 3)}')
    return '\n'.join(lines) + '\n'


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent='# ', subsequent_indent='# ', break_long_words=False)


def _formatted(value: Any, key: str, indent: int, taken: int) -> str:
    """Format a value in one line if it fits, else with one item per line."""
    inner = ' ' * (indent + 4)
    if isinstance(value, Mapping) and value:
        plain = all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value)
        start, end = ('dict(', ')') if plain else ('{', '}')
        heads = [f'{k}=' if plain else f'{_formatted(k, key, 0, 0)}: ' for k in value]
        children = [(f'{key}.{k}', child) for k, child in value.items()]
    elif isinstance(value, (list, tuple, set)) and value:
        start, end = '[]' if isinstance(value, list) else '()' if isinstance(value, tuple) else '{}'
        heads = [''] * len(value)
        children = [(f'{key}.{i}', child) for i, child in enumerate(value)]
    else:
        return _leaf(value, key)
    items = [
        head + _formatted(child, name, indent + 4, 4 + len(head))
        for head, (name, child) in zip(heads, children, strict=True)
    ]
    if isinstance(value, set):
        items.sort()  # the order of a set is another one in each process
    comma = ',' if isinstance(value, tuple) and len(items) == 1 else ''
    line = start + ', '.join(items) + comma + end
    if '\n' not in line and indent + taken + len(line) <= _WIDTH:
        return line
    body = _filled(items, inner) if start == 'dict(' else '\n'.join(f'{inner}{item},' for item in items)
    return f'{start}\n{body}\n{" " * indent}{end}'


def _leaf(value: Any, key: str) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PurePath) or type(value) is str:
        return _string(str(value))
    if type(value) is float and not math.isfinite(value):  # repr gives a name that is undefined in a config
        return f'float({str(value)!r})'
    if type(value) in _LITERALS:
        return repr(value)
    for kind, empty in ((Mapping, '{}'), (list, '[]'), (tuple, '()'), (set, 'set()')):
        if isinstance(value, kind):
            return empty
    raise ConfigError(
        f'{key}: {value!r} is of type {type(value).__name__}, which cannot be written into the text of a config; use '
        'numbers, strings, lists and dicts, and names of registered classes'
    )


def _filled(items: Sequence[str], inner: str) -> str:
    """Fill lines with items; an item that has several lines gets them to itself."""
    lines: list[str] = []
    room = False  # whether the last line can take another item
    for item in items:
        alone = '\n' in item
        if room and not alone and len(lines[-1]) + len(item) + 2 <= _WIDTH:
            lines[-1] += f' {item},'
        else:
            lines.append(f'{inner}{item},')
        room = not alone
    return '\n'.join(lines)


def _string(text: str) -> str:
    raw = '\\' in text and "'" not in text and not text.endswith('\\') and text.isprintable()
    return f"r'{text}'" if raw else repr(text)
