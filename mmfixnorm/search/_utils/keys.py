"""Dotted keys such as ``optim_wrapper.optimizer.lr`` in nested configs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmfixnorm.errors import ConfigError


def is_key(name: str) -> bool:
    """Return whether the name of a number is its dotted key in the config, as in ``search.space``."""
    return '.' in name


def _is_list(node: Any) -> bool:
    return isinstance(node, Sequence) and not isinstance(node, (str, bytes))


def _children(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    return [str(i) for i in range(len(node))] if _is_list(node) else []


def _step(node: Any, name: str) -> Any:
    return node[name] if isinstance(node, Mapping) else node[int(name)]


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the closest valid name, or ``''``."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f', did you mean {close[0]!r}?' if close else ''


def get_key(config: Any, key: str, *, named_by: str) -> Any:
    """Return the value at ``key``.

    Args:
        config (dict): Nested mappings and lists; a list is entered by index.
        key (str): Dotted key.
        named_by (str): The setting that names the key, for the message.

    Raises:
        ConfigError: There is no such key; the message says what exists there.
    """
    node, done = config, ''
    for name in key.split('.'):
        children = _children(node)
        if name not in children:
            where = f'`{done}` has' if done else 'the config has'
            raise ConfigError(
                f'{named_by}: {key!r} is not in the config: {where} no key {name!r}'
                f'{nearest(name, children)} (it has: {", ".join(sorted(children)) or "no keys"})'
            )
        node, done = _step(node, name), f'{done}.{name}' if done else name
    return node


def with_value(node: Any, key: str, value: Any) -> Any:
    """Return a copy of nested mappings and lists with another value at a dotted key that they have.

    Example:
        >>> with_value({'betas': (0.9, 0.999), 'lr': 1}, 'betas.1', 0.95)
        {'betas': (0.9, 0.95), 'lr': 1}
    """
    name, _, rest = key.partition('.')
    new = with_value(_step(node, name), rest, value) if rest else value
    if isinstance(node, Mapping):
        return {**node, name: new}
    return type(node)(new if str(i) == name else child for i, child in enumerate(node))


def flatten(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield every leaf as ``(dotted key, value)``; an empty container counts as a leaf."""
    if isinstance(node, Mapping) and node:
        items: Iterable[tuple[Any, Any]] = node.items()
    elif _is_list(node) and node:
        items = enumerate(node)
    else:
        yield prefix, node
        return
    for name, child in items:
        yield from flatten(child, f'{prefix}.{name}' if prefix else str(name))


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{'a.b': 1}`` into ``{'a': {'b': 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split('.')
        node = nested
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return nested
