"""Writes the tables of docs/config_keys.md from the signatures and docstrings: ``python docs/keys_table.py``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from mmfixnorm.search.executors import EXECUTORS
from mmfixnorm.search.methods import METHODS
from mmfixnorm.search.methods.sampled import RandomSearch, SampledSearch
from mmfixnorm.search.settings import SearchSettings

PAGE = Path(__file__).resolve().parent / 'config_keys.md'
NO_DEFAULT = inspect.Parameter.empty
INTERNAL = {'own_lr'}  # filled in by the search itself
HEADS = {'cls': 'mmpretrain', 'det': 'mmdet', 'seg': 'mmseg'}

# One entry of a docstring: ``name (type): text`` or ``- ``name`` (type): text``, and the lines indented below it.
ENTRY = re.compile(
    r'^(?P<indent> *)(?:- ``)?(?P<name>\w+)(?:``)? \((?P<type>[^\n]*?)\): (?P<text>.*(?:\n(?P=indent) {2,}.*)*)',
    re.MULTILINE,
)
ROLE = re.compile(r':(?:class|mod|func|meth):`~?(?:[\w.]*\.)?(\w+)`')


def described(cls: type, *, whole: bool = False) -> dict[str, str]:
    """The first sentence about each argument, or all of them, in Markdown; nearest class first."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        for entry in ENTRY.finditer(
            inspect.cleandoc(base.__doc__ or '') if base.__module__.startswith('mmfixnorm') else ''
        ):
            text = ' '.join(entry['text'].split())
            text = ROLE.sub(r'`\1`', text).replace('``', '`')
            text = (
                re.sub(r' Defaults to [^ ]+$', '', text.rstrip('.'))
                if whole
                else re.split(r'(?<=[.;])\s+(?=[A-Z`])', text)[0]
            )
            found.setdefault(entry['name'], text.rstrip('.;').replace('|', r'\|'))
    return found


def own_keys(cls: type) -> dict[str, Any]:
    """Arguments that classes of this package add, with their defaults."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith('mmfixnorm') or '__init__' not in vars(base):
            continue
        for name, parameter in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
            if name != 'self' and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found[name] = parameter.default
    return found


def settings_keys(cls: type, without: type | None = None) -> dict[str, Any]:
    """Fields of settings with their defaults, without those of another class that they have unchanged."""
    assert is_dataclass(cls)

    def of(settings: Any) -> dict[str, Any]:
        found = {}
        for field in fields(settings):
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            found[field.name] = NO_DEFAULT if default is MISSING else default
        return found

    shared = of(without) if without else {}
    return {
        key: default
        for key, default in of(cls).items()
        if key not in INTERNAL and not (key in shared and shared[key] == default)
    }


def table(keys: dict[str, Any], texts: dict[str, str]) -> str:
    """Keys, defaults and what they mean.

    Raises:
        KeyError: The docstring says nothing of a key.
    """
    rows = ['| key | default | meaning |', '|---|---|---|']
    for key, default in keys.items():
        shown = '*needed*' if default is NO_DEFAULT else f'`{default!r}`'
        rows.append(f'| `{key}` | {shown} | {texts[key]} |')
    return '\n'.join(rows)


def exported(package: str, endings: tuple[str, ...]) -> Iterator[type]:
    """The classes that a package exports whose names end like this."""
    module = importlib.import_module(f'mmfixnorm.{package}')
    return (getattr(module, name) for name in module.__all__ if name.endswith(endings))


def of_wrapper() -> str:
    from mmfixnorm.engine import FixNormOptimWrapper, FixNormOptimWrapperConstructor

    keys = own_keys(FixNormOptimWrapper)
    texts = described(FixNormOptimWrapperConstructor)
    groups = dict.fromkeys(FixNormOptimWrapperConstructor.options, None)
    for name in ('norm_decay_mult', 'bias_decay_mult'):
        texts[name] = 'may be 0, as in many configs: neither is decayed'
    return '\n\n'.join(
        (
            '### `optim_wrapper`',
            "`type='FixNormOptimWrapper'`, for mixed precision `'FixNormAmpOptimWrapper'`; all of mmengine's keys too.",
            table(keys, described(FixNormOptimWrapper, whole=True)),
            '### `optim_wrapper.paramwise_cfg`',
            "`constructor='FixNormOptimWrapperConstructor'`.",
            table(groups, texts),
        )
    )


def of_hooks() -> str:
    parts = []
    for hook in exported('engine', ('Hook',)):
        summary = inspect.cleandoc(hook.__doc__ or '').split('\n\n')[0]
        summary = ROLE.sub(r'`\1`', ' '.join(summary.split())).replace('``', '`')
        keys = own_keys(hook)
        parts += [f'### `{hook.__name__}`', summary]
        parts += [table(keys, described(hook))] if keys else []
    return '\n\n'.join(parts)


def of_heads() -> str:
    rows = ['| toolbox | `type` | own keys |', '|---|---|---|']
    for package, toolbox in HEADS.items():
        for head in exported(package, ('Head',)):
            stock = {'num_classes', 'in_channels'}
            keys = [key for key in own_keys(head) if key not in stock]
            rows.append(f'| {toolbox} | `{head.__name__}` | {", ".join(f"`{key}`" for key in keys)} |')
    return '\n'.join(rows)


def of_layers() -> str:
    from mmfixnorm.core import layers

    rows = ['| `type` | own keys |', '|---|---|']
    for name in ('WNLinear', 'WNConv2d', 'FixNormLinear', 'FixNormConv2d'):
        keys = [key for key in own_keys(getattr(layers, name)) if key in ('alpha', 'train_scale')]
        rows.append(f'| `{name}` | {", ".join(f"`{key}`" for key in keys)} |')
    return '\n'.join(rows)


def of_search() -> str:
    parts = ['### Of every method', table(settings_keys(SearchSettings), described(SearchSettings))]
    for kind, method in METHODS.items():
        sampled = issubclass(method.settings, SampledSearch) and kind != 'RandomSearch'
        keys = settings_keys(method.settings, RandomSearch if sampled else SearchSettings)
        parts += [f'### `{kind}`'] + (['As `RandomSearch`, and:'] if sampled else [])
        parts += [table(keys, described(method.settings))]
    return '\n\n'.join(parts)


def of_executors() -> str:
    parts = []
    for kind, executor in EXECUTORS.items():
        parts += [f'### `{kind}`', table(settings_keys(executor), described(executor))]
    return '\n\n'.join(parts)


def with_tables(page: str) -> str:
    """A page with its tables replaced."""
    made = dict(
        wrapper=of_wrapper, hooks=of_hooks, heads=of_heads, layers=of_layers, search=of_search, executors=of_executors
    )
    for name, make in made.items():
        before, begin, rest = page.partition(f'<!-- begin {name} -->\n')
        _, end, after = rest.partition(f'<!-- end {name} -->')
        assert begin
        assert end
        page = f'{before}{begin}{make()}\n{end}{after}'
    return page


if __name__ == '__main__':
    PAGE.write_text(with_tables(PAGE.read_text()))
