"""One name for the ``type`` of a part of a config, however the config writes it.

A config says ``'EMAHook'``, ``'mmengine.EMAHook'``, ``'mmengine.hooks.EMAHook'`` (in the text that mmengine writes of a
config in pure Python), or the class. Whoever compares a ``type`` compares :func:`type_name` of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

__all__ = ['full_name', 'registered', 'type_name']

# Packages whose classes are known by their registered names.
_KNOWN = frozenset({'mmengine', 'mmcv', 'mmfixnorm', 'torch', *MODULE2PACKAGE})


def type_name(kind: Any, registry: Registry | None = None, scope: str | None = None) -> str:
    """Return the name by which the ``type`` of a config is compared.

    Args:
        kind (str | Callable): A name, a scoped name, a full path, or a class or function.
        registry (Registry, optional): The root registry that has it; the class is then looked up, which imports the
            toolbox, and aliases get their first name (``'BN2d'`` becomes ``'BN'``). Defaults to None: by the text
            alone, for code that runs without torch. So it is, too, if the package of ``kind`` is not installed.
        scope (str, optional): ``default_scope`` of the config. Defaults to None: the current scope.

    Returns:
        str: The registered name of a class of mmengine, torch, a toolbox or this package. A class of another package
        keeps its full path, as its name may be that of a stock class.

    Example:
        >>> type_name('mmengine.EMAHook'), type_name('mmengine.hooks.EMAHook'), type_name('project.hooks.EMAHook')
        ('EMAHook', 'EMAHook', 'project.hooks.EMAHook')
    """
    if registry is not None and isinstance(kind, str):
        kind = registered(kind, registry, scope) or kind
    text = full_name(kind)
    root, dot, _ = text.partition('.')
    if dot and root not in _KNOWN:
        return text
    name = text.rpartition('.')[2]
    if registry is None or isinstance(kind, str):
        return name
    names = list(_names_of(kind, registry.root))
    return names[0] if names and name not in names else name


def full_name(kind: Any) -> str:
    """Return a name as it is, and the path of a class or function, also of one that is not imported yet."""
    if isinstance(kind, str):
        return kind
    if isinstance(kind, (LazyAttr, LazyObject)):
        return f'{kind.module}.{kind}'
    module, name = getattr(kind, '__module__', None), getattr(kind, '__qualname__', None)
    return f'{module}.{name}' if module and name else repr(kind)


def registered(name: str, registry: Registry, scope: str | None) -> Any:
    """Return the class or function that a name of a config means; None if there is none."""
    with registry.switch_scope_and_registry(scope) as own:
        try:
            found = own.get(name)
        except (ImportError, RuntimeError):  # the toolbox or a module of it cannot be imported
            return None
    return found if callable(found) else None  # mmengine finds modules too


def _names_of(kind: Any, registry: Registry) -> Iterator[str]:
    yield from (name for name, own in registry.module_dict.items() if own is kind)
    for child in registry.children.values():
        yield from _names_of(kind, child)
