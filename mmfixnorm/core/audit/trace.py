"""Follows a scaled weight through a forward: where a norm removes its scale, and where it stops being a mere factor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['Operation', 'Path', 'Trace', 'compare_traces']

SCALE = 2.0
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_NORM = ('batch_norm', 'layer_norm', 'group_norm', 'rms_norm')
_LAYERS = ('convolution', 'addmm', 'mm', 'bmm', 'baddbmm', 'linear')
_SUMS = ('add', 'sub', 'rsub', 'cat', 'stack', 'where', 'maximum', 'minimum', 'addmm', 'baddbmm', 'index_put')
_CLASSIFIERS = ('_log_softmax', '_softmax', 'sigmoid', 'log_sigmoid_forward', 'binary_cross_entropy_with_logits')
_MIXED = 'mixed'


class Digest(NamedTuple):
    """Two numbers that represent a tensor, enough to detect whether another tensor is a multiple of it."""

    norm: float
    projection: float


@dataclass(frozen=True)
class Operation:
    """One call of an ATen operator.

    Attributes:
        name: Such as ``'native_batch_norm'``.
        module: Name of the innermost module that runs it; ``''`` for the model itself.
        inputs: Digests of its floating-point inputs.
        outputs: Digests of its floating-point outputs.
    """

    name: str
    module: str
    inputs: tuple[Digest, ...]
    outputs: tuple[Digest, ...]


class Trace(TorchDispatchMode):
    """Records the operators of the forwards that run inside :meth:`recording`, starting afresh each time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._model = model
        self._modules: list[str] = []
        self._vectors: dict[tuple[int, torch.device], Tensor] = {}
        self._weights: dict[int, Tensor] = {}
        self._weight_digests: dict[tuple[Any, ...], Digest] = {}

    @contextmanager
    def recording(self) -> Iterator[list[Operation]]:
        self.operations = []
        self._weights = {p.untyped_storage().data_ptr(): p for p in self._model.parameters()}
        with ExitStack() as stack:
            for name, module in self._model.named_modules():
                stack.callback(
                    module.register_forward_pre_hook(lambda *_, name=name: self._modules.append(name)).remove
                )
                stack.callback(module.register_forward_hook(lambda *_: self._leave()).remove)
            with self:
                yield self.operations

    def _leave(self) -> None:
        self._modules.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = self._digests((args, kwargs))
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        module = self._modules[-1] if self._modules else ''
        self.operations.append(Operation(name.rstrip('_'), module, inputs, self._digests(out)))
        return out

    def _digests(self, node: Any) -> tuple[Digest, ...]:
        if isinstance(node, Tensor):
            return (self._digest(node),) if node.is_floating_point() and node.numel() else ()
        if isinstance(node, dict):
            node = list(node.values())
        if isinstance(node, (tuple, list)):
            return tuple(d for child in node for d in self._digests(child))
        return ()

    def _digest(self, tensor: Tensor) -> Digest:
        if tensor.layout is not torch.strided:  # a sparse tensor has no storage
            return self._computed_digest(tensor.to_dense())
        weight = self._weights.get(tensor.untyped_storage().data_ptr())
        if weight is None:
            return self._computed_digest(tensor)
        # Most tensors that a forward reads are weights, and all but one are unchanged since the last recording.
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, weight._version)
        if key not in self._weight_digests:
            self._weight_digests[key] = self._computed_digest(tensor)
        return self._weight_digests[key]

    def _computed_digest(self, tensor: Tensor) -> Digest:
        flat = tensor.detach().reshape(-1).double()
        key = (flat.numel(), flat.device)
        if key not in self._vectors:
            self._vectors[key] = torch.cos(torch.arange(flat.numel(), device=flat.device, dtype=torch.float64) * 0.7)
        return Digest(flat.norm().item(), torch.dot(flat, self._vectors[key]).item())


@dataclass(frozen=True)
class Path:
    """The fate of the scale of a weight on its way to the outputs.

    Attributes:
        breaker: The first operator whose output is no longer a multiple of its original output.
        index: The number of that call in the trace.
        sums: Whether that operator joins tensors of different scale.
        absorbed: Whether a norm removed the scale on at least one path.
        meets_norm: Whether the input of a norm changed.
        last_layer: Whether no other layer comes between the weight and the breaker, or the end, nor on another path on
            which its scale is still a factor, such as that of another level of a pyramid.
        classifies: Whether the scale reached a softmax or sigmoid as a factor.
        feeds_classifier: Whether the weight reached a softmax or sigmoid in any way, as it does through logits of
            several levels that are joined.
    """

    breaker: Operation | None
    index: int
    sums: bool
    absorbed: bool
    meets_norm: bool
    last_layer: bool
    classifies: bool
    feeds_classifier: bool


def compare_traces(base: list[Operation], scaled: list[Operation], dtype: torch.dtype) -> Path:
    """Compare a forward to the same forward with one or more weights multiplied by ``SCALE``."""
    breaker, index, sums = None, -1, False
    absorbed = meets_norm = later_layer = classifies = feeds_classifier = False
    for i, (before, after) in enumerate(zip(base, scaled, strict=False)):
        if before.name != after.name or len(before.inputs) != len(after.inputs):
            break  # the control flow depends on the values from here on
        inputs = [_degree(b, a, dtype) for b, a in zip(before.inputs, after.inputs, strict=True)]
        outputs = [_degree(b, a, dtype) for b, a in zip(before.outputs, after.outputs, strict=False)]
        if not any(inputs):
            continue
        is_norm = any(name in before.name for name in _NORM)
        meets_norm |= is_norm
        if (is_norm or before.name == 'div') and outputs and not outputs[0]:
            absorbed = True
        if before.name in _CLASSIFIERS:
            feeds_classifier = True
            classifies |= _MIXED not in inputs
        # The activation is the first input, except in addmm and baddbmm, which begin with the bias.
        position = 1 if before.name in ('addmm', 'baddbmm') else 0
        if before.name in _LAYERS and len(inputs) > position and inputs[position]:
            later_layer |= breaker is None or inputs[position] != _MIXED
        if breaker is None and _MIXED in outputs and _MIXED not in inputs:
            breaker, index = before, i
            sums = before.name in _SUMS and len(set(inputs)) > 1
    return Path(breaker, index, sums, absorbed, meets_norm, not later_layer, classifies, feeds_classifier)


def _degree(before: Digest, after: Digest, dtype: torch.dtype) -> float | str:
    """Return 0 for an equal tensor, k for one that is ``SCALE ** k`` times as large, ``'mixed'`` for any other."""
    tolerance = _TOLERANCE[dtype]
    if max(after.norm, before.norm) < 1e-13:  # zero up to rounding
        return 0
    if not (before.norm > 0 and after.norm > 0 and math.isfinite(before.norm) and math.isfinite(after.norm)):
        return _MIXED
    ratio = after.norm / before.norm
    degree = math.log(ratio, SCALE)
    nearest = round(2 * degree) / 2  # square roots halve it
    same_direction = abs(after.projection - ratio * before.projection) <= tolerance * after.norm
    return nearest if abs(degree - nearest) <= tolerance and same_direction else _MIXED
