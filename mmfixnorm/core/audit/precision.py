"""Lets a model compute in double precision, also where its code asks for another type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ['DoublePrecision', 'single_precision']

_NARROWER = (torch.float32, torch.float16, torch.bfloat16)


class DoublePrecision(TorchDispatchMode):
    """Within this context every operator computes in float64.

    Weights in float64 are not enough: ``x.float()``, ``torch.zeros(n, dtype=torch.float32)`` and tensors from NumPy
    are common in heads and losses, and in-place operators and matrix products refuse mixed types. So floating-point
    arguments of an operator are widened, and so is a type that it is asked for. A tensor that an operator writes to
    stays what it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[Any, tuple[frozenset[int], frozenset[str]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _paused:
            return func(*args, **kwargs)
        positions, names = self._arguments_written(func)
        written = [args[i] for i in positions if i < len(args)] + [kwargs[name] for name in names if name in kwargs]
        # An operator in place takes the type of its target, as `index_put` insists on.
        target = next((t.dtype for t in written if isinstance(t, Tensor) and t.is_floating_point()), torch.float64)

        def widened(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != target:
                return value.to(target)
            return value

        args = [arg if i in positions else tree_map(widened, arg) for i, arg in enumerate(args)]
        kwargs = {name: value if name in names else tree_map(widened, value) for name, value in kwargs.items()}
        if kwargs.get('dtype') in _NARROWER:
            kwargs['dtype'] = torch.float64
        return func(*args, **kwargs)

    def _arguments_written(self, func: Any) -> tuple[frozenset[int], frozenset[str]]:
        """Return the positions and names of the arguments that an operator writes to."""
        if func not in self._written:
            arguments = func._schema.arguments
            written = [i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
            self._written[func] = frozenset(written), frozenset(arguments[i].name for i in written)
        return self._written[func]


_paused: list[None] = []


@contextmanager
def single_precision() -> Iterator[None]:
    """Leave :class:`DoublePrecision` for a moment, for compiled code that reads float32 whatever it is given."""
    _paused.append(None)
    try:
        yield
    finally:
        _paused.pop()
