"""The text of a config file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ['config_text']

_WIDTH = 118


def config_text(title: str, sections: Sequence[tuple[str, Any, Sequence[str]]]) -> str:
    """Write a config file of Python.

    Args:
        title (str): Comment at the top.
        sections (Sequence): Triples of a key, its value, and sentences for comments above it.

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
        lines.append(f'{key} = {_formatted(value, 0, len(key) + 3)}')
    return '\n'.join(lines) + '\n'


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent='# ', subsequent_indent='# ', break_long_words=False)


def _formatted(value: Any, indent: int, taken: int) -> str:
    """Format a value in one line if it fits, else with one item per line."""
    inner = ' ' * (indent + 4)
    if isinstance(value, Mapping) and value:
        plain = all(isinstance(key, str) and key.isidentifier() for key in value)
        start, end = ('dict(', ')') if plain else ('{', '}')
        heads = [f'{key}=' if plain else f'{_string(key)}: ' for key in value]
        children: list[Any] = list(value.values())
    elif isinstance(value, (list, tuple)) and value:
        start, end = ('[', ']') if isinstance(value, list) else ('(', ')')
        heads, children = [''] * len(value), list(value)
    else:
        return _leaf(value)
    items = [head + _formatted(child, indent + 4, 4 + len(head)) for head, child in zip(heads, children, strict=True)]
    comma = ',' if isinstance(value, tuple) and len(items) == 1 else ''
    line = start + ', '.join(items) + comma + end
    if '\n' not in line and indent + taken + len(line) <= _WIDTH:
        return line
    body = _filled(items, inner) if start == 'dict(' else '\n'.join(f'{inner}{item},' for item in items)
    return f'{start}\n{body}\n{" " * indent}{end}'


def _leaf(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float) and not math.isfinite(value):  # repr gives a name that is undefined in a config
        return f'float({str(value)!r})'
    return repr(value)


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
