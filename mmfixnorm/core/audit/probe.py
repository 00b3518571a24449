"""A copy of a model for the experiments of the audit; the model itself is never changed."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from mmfixnorm.core.audit.calibration import calibrate
from mmfixnorm.core.audit.calibration import draw as draw_uniform
from mmfixnorm.core.audit.precision import DoublePrecision
from mmfixnorm.core.layer_kinds import layer_weights

__all__ = ['Probe', 'audited_weights', 'change', 'preserve_random_state', 'weight_names']

_EPS_NAMES = ('eps', 'epsilon', 'variance_epsilon')
# Small enough that a variance of 1e-6 hides the epsilon, large enough that a channel with no variance but rounding
# errors does not turn into noise.
_EPS_FACTOR = {torch.float64: 1e-8, torch.float32: 1e-3}
_MEASURABLE = {torch.float64: 1e-8, torch.float32: 1e-5}

_Caller = Callable[[nn.Module], Any]


def weight_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every weight tensor of the convolutions, linear layers and attentions, under each of its names."""
    return {f'{prefix}.{name}'.lstrip('.'): param for prefix, _, name, param in layer_weights(model)}


def audited_weights(model: nn.Module) -> dict[str, list[str]]:
    """Map the name of each weight tensor in ``named_parameters()`` to all its names, in the order of that method."""
    names: dict[int, list[str]] = {}
    for name, param in weight_names(model).items():
        names.setdefault(id(param), []).append(name)
    return {name: names[id(param)] for name, param in model.named_parameters() if id(param) in names}


def change(outputs: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """Compute the largest relative change of an output; ``inf`` if their number or shapes differ."""
    if [o.shape for o in outputs] != [b.shape for b in base]:
        return float('inf')
    if not base:
        return 0.0
    scale = torch.stack([b.norm() for b in base])
    # An output that is zero up to rounding is compared with the size of the others.
    scale = scale.clamp(min=scale.max().item() * 1e-6)
    return (
        (torch.stack([(o - b).norm() for o, b in zip(outputs, base, strict=True)]) / scale).max().nan_to_num(0).item()
    )


class Probe:
    """Repeats one training forward of a copy of ``model``, with changes to the weights in between.

    The copy is in ``dtype`` and in training mode. Modules in evaluation mode inside a ``model`` in training mode stay
    in evaluation mode, as do those that ``model.train()`` keeps there. The copy has small epsilons in its norm layers,
    and random values in place of constant tensors (a bias of zeros, a layer scale of 1e-6), as a constant can hide a
    dependence that shows later in training.

    Args:
        model (nn.Module): The model.
        inputs: As in :func:`mmfixnorm.core.audit`.
        dtype (torch.dtype): float64 or float32.
        seed (int): Random seed of every forward.
        light (Sequence): Other inputs, with which a forward takes less time, for :meth:`lightly`; the first that the
            model can take.

    Raises:
        RuntimeError: If the forward is not repeatable, or not finite.
        TypeError: If the model cannot be copied, or if no output depends on a parameter.
    """

    def __init__(self, model: nn.Module, inputs: Any, dtype: torch.dtype, seed: int, light: Sequence[Any] = ()) -> None:
        self.dtype, self.seed = dtype, seed
        self._call = _caller(inputs)
        self._lights = [_caller(own) for own in light]
        self.model = _copy(model).to(dtype)
        _enter_training(self.model, model)
        self.names = {id(p): name for name, p in self.model.named_parameters()}
        self.frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        self._enliven(torch.Generator().manual_seed(seed))
        for param in self.model.parameters():
            param.grad = None
            param.requires_grad_(param.is_floating_point())
        for module in self.model.modules():
            module.register_forward_pre_hook(self._cast, with_kwargs=True)
        self._epsilons = [
            (module, name, value)
            for module in self.model.modules()
            for name in _EPS_NAMES
            if isinstance(value := vars(module).get(name), float) and value > 0
        ]
        self._set_epsilons(_EPS_FACTOR[dtype])
        self.called: set[nn.Module] = set()
        """Modules whose forward ran, other than those whose weights are used by something else."""
        self._buffers = {name: b.detach().clone() for name, b in self.model.named_buffers()}
        for name in calibrate(self.model, self._forward, seed):
            self._buffers[name] = self.model.get_buffer(name).detach().clone()
        self.weights = audited_weights(self.model)
        self.params = {name: self.model.get_parameter(name) for name in self.weights}
        self._lightly: tuple[_Caller, list[int], list[Tensor]] | None = None
        outputs = self._forward()
        self._kept = [i for i, o in enumerate(outputs) if o.requires_grad]
        if not self._kept:
            raise TypeError('no output depends on a parameter: the forward must return tensors with a gradient')
        self.base = self._detached(outputs)
        self._check_finite()
        self.base_gradients = self._gradients(outputs, 1)
        """As :meth:`gradients` of the first draw, of the model as it is."""
        del outputs  # its graph, before the next forward
        self._check_repeatable()

    def _check_finite(self) -> None:
        if not all(torch.isfinite(o).all() for o in self.base):
            raise RuntimeError('the outputs that reach the loss must be finite, got nan or inf')

    def _check_repeatable(self) -> None:
        again = change(self.outputs(), self.base)
        if again > _MEASURABLE[self.dtype]:
            raise RuntimeError(
                f'the forward must be repeatable with the same random seed, but its outputs changed by {again:.1e}; '
                'the model keeps a state between forwards, or draws from a random generator of its own'
            )

    def outputs(self) -> list[Tensor]:
        """Run a forward and return the outputs that reach the loss, detached."""
        with torch.no_grad():
            return self._detached(self._forward())

    def gradients(self, draw: int) -> dict[str, Tensor | None]:
        """Compute the gradient of a random combination of all outputs by each weight; None for an unused weight."""
        return self._gradients(self._forward(), draw)

    @contextmanager
    def lightly(self) -> Iterator[bool]:
        """Use light inputs within the context, and yield whether there are any that the model can take."""
        usual = self._call, self._kept, self.base
        while self._lightly is None and self._lights:
            self._lightly = self._with(self._lights.pop(0))
            self._call, self._kept, self.base = usual
        if self._lightly is not None:
            self._call, self._kept, self.base = self._lightly
        try:
            yield self._lightly is not None
        finally:
            self._call, self._kept, self.base = usual

    def _with(self, call: _Caller) -> tuple[_Caller, list[int], list[Tensor]] | None:
        """Measure the outputs with other inputs, which then are in use; None if the model cannot take them."""
        self._call = call
        try:
            outputs = self._forward()
            self._kept = [i for i, o in enumerate(outputs) if o.requires_grad]
            self.base = self._detached(outputs)
            self._check_finite()
            self._check_repeatable()  # without gradients a model may take another way
        except Exception:  # too small for its paddings, kernels or assignments: whatever, there are the others
            return None
        return call, self._kept, self.base

    def _detached(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return [outputs[i].detach().to(self.dtype) for i in self._kept if i < len(outputs)]

    def _gradients(self, outputs: Sequence[Tensor], draw: int) -> dict[str, Tensor | None]:
        generator = torch.Generator().manual_seed(draw)
        total = torch.zeros((), dtype=self.dtype, device=self.base[0].device)
        floor = max(base.norm().item() for base in self.base) * 1e-6 + 1e-30
        for i in self._kept:
            weight = torch.randn(outputs[i].shape, generator=generator, dtype=torch.float64)
            weight = weight.sign() + 0.3 * weight
            # One loss can be a thousand times another, so each output is divided by its size.
            size = outputs[i].detach().norm().clamp(min=floor)
            total = total + (weight.to(outputs[i]) * outputs[i]).sum() / size
        with self._precision():
            gradients = torch.autograd.grad(total, list(self.params.values()), allow_unused=True)
        return dict(zip(self.params, gradients, strict=True))

    def outputs_with(self, scales: Mapping[str, float]) -> list[Tensor]:
        """Compute the outputs with some weights multiplied by factors."""
        with self.scaled(scales):
            return self.outputs()

    def change_with(self, scales: Mapping[str, float]) -> float:
        """Measure how much the outputs change when some weights are multiplied by factors."""
        return change(self.outputs_with(scales), self.base)

    @torch.no_grad()
    def change_by_noise(self, names: Sequence[str]) -> float:
        """Measure how much the outputs change with a random step of each weight, as long as the weight itself."""
        with self.scaled(dict.fromkeys(names, 1.0)):
            for name in names:
                param = self.params[name]
                noise = torch.randn(param.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
                noise = noise.to(param)
                param.add_(noise * (param.norm() / noise.norm()))
            return change(self.outputs(), self.base)

    @contextmanager
    def scaled(self, scales: Mapping[str, float]) -> Iterator[None]:
        """Multiply weights by factors within the context, and restore them bit for bit."""
        saved = {name: self.params[name].detach().clone() for name in scales}
        try:
            with torch.no_grad():
                for name, scale in scales.items():
                    self.params[name].mul_(scale)
            yield
        finally:
            with torch.no_grad():
                for name, value in saved.items():
                    self.params[name].copy_(value)

    @torch.no_grad()
    def epsilon_effect(self, names: Sequence[str]) -> float:
        """Measure how much the outputs change when weights are doubled and the epsilons are those of the model."""
        self._set_epsilons(1.0)
        try:
            base = self.outputs()
            with self.scaled(dict.fromkeys(names, 2.0)):
                return change(self.outputs(), base)
        finally:
            self._set_epsilons(_EPS_FACTOR[self.dtype])

    def _set_epsilons(self, factor: float) -> None:
        for module, name, value in self._epsilons:
            setattr(module, name, value * factor)

    @contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Let every module with stored statistics use batch statistics within the context."""
        with ExitStack() as stack:
            for module in self.model.modules():
                if isinstance(getattr(module, 'running_mean', None), Tensor):
                    stack.callback(module.register_forward_hook(_with_batch_statistics).remove)
            yield

    @contextmanager
    def without_biases(self) -> Iterator[None]:
        """Set all biases of convolutions, linear layers and attentions to zero within the context."""
        owners = {name.rpartition('.')[0] for name in weight_names(self.model)}
        owners |= {owner.partition('.parametrizations')[0] for owner in owners}
        biases = [
            param
            for owner in owners
            for name, param in self.model.get_submodule(owner).named_parameters(recurse=False)
            if name.endswith('bias')
        ]
        saved = [bias.detach().clone() for bias in biases]
        try:
            with torch.no_grad():
                for bias in biases:
                    bias.zero_()
            yield
        finally:
            with torch.no_grad():
                for bias, value in zip(biases, saved, strict=True):
                    bias.copy_(value)

    @contextmanager
    def untied(self, name: str) -> Iterator[list[str]]:
        """Give each use of a shared weight its own tensor within the context; yields the names to measure."""
        param, params = self.params[name], self.params
        slots = [(self.model.get_submodule(n.rpartition('.')[0]), n.rpartition('.')[2]) for n in self.weights[name]]
        # The same module under two names has one slot.
        unique = {
            (id(owner), slot): (full, owner) for full, (owner, slot) in zip(self.weights[name], slots, strict=True)
        }
        own: dict[str, nn.Parameter] = {}
        try:
            for (_, slot), (full, owner) in unique.items():
                own[full] = owner._parameters[slot] = nn.Parameter(param.detach().clone())
            self.params = {**{k: v for k, v in params.items() if k != name}, **own}
            yield list(own)
        finally:
            for (_, slot), (_full, owner) in unique.items():
                owner._parameters[slot] = param
            self.params = params

    def _forward(self) -> list[Tensor]:
        self._restore_buffers()
        _seed(self.seed)
        with self._precision(), _without_reentrant_checkpoints():
            return list(_tensors(self._call(self.model)))

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        for name, saved in self._buffers.items():
            owner, _, own = name.rpartition('.')
            buffers = self.model.get_submodule(owner)._buffers
            buffer = buffers.get(own)
            if buffer is not None and buffer.shape == saved.shape:
                buffer.copy_(saved)
            else:  # a model may put another one in its place, of another size for other inputs
                buffers[own] = saved.clone()

    def _cast(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        # For inputs, and what the model converts: some operators compare types before any of them is dispatched.
        self.called.add(module)
        return _map(args, self._to_dtype), _map(kwargs, self._to_dtype)

    def _to_dtype(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Of a forward, and of the backward, in which activation checkpointing runs parts of the forward again."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with DoublePrecision() if self.dtype == torch.float64 else nullcontext():
                yield
        finally:
            torch.set_default_dtype(default)

    @torch.no_grad()
    def _enliven(self, generator: torch.Generator) -> None:
        draw = partial(draw_uniform, generator=generator)
        for param in self.model.parameters():
            if not (param.requires_grad and param.is_floating_point() and param.numel()):
                continue
            first = param.flatten()[0].item()
            if not (param == first).all():
                continue
            if first == 0 and param.ndim >= 2:
                bound = (3 / max(1, param[0].numel())) ** 0.5
                param.copy_(draw(param, -bound, bound))
            elif first == 0:
                param.copy_(
                    draw(param, 0.1, 0.3) * draw(param, -1, 1).sign() if param.numel() > 1 else draw(param, 0.5, 1)
                )
            elif param.numel() > 1:
                param.copy_(draw(param, 0.5, 1.5) * (first if abs(first) > 0.1 else 1.0))


class _Called:
    """In the place of ``torch.utils.checkpoint.CheckpointFunction``: calls the function, and keeps its activations."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def _without_reentrant_checkpoints() -> Iterator[None]:
    """Switch the activation checkpointing off that refuses ``torch.autograd.grad``, under whatever name it is called.

    The other kind, ``use_reentrant=False``, takes it.
    """
    module: Any = torch.utils.checkpoint
    original = module.CheckpointFunction
    module.CheckpointFunction = _Called
    try:
        yield
    finally:
        module.CheckpointFunction = original


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch, on all devices, after the context."""
    numpy = sys.modules.get('numpy')  # None if it was not imported: then no code draws from it
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get('numpy'):
        numpy.random.seed(seed)


def _copy(model: nn.Module) -> nn.Module:
    # Only leaves of a graph can be copied; a model may keep other tensors, computed from its weights.
    attributes = [value for module in model.modules() for value in vars(module).values()]
    attributes += [item for value in attributes if isinstance(value, (list, tuple)) for item in value]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    try:
        return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
    except Exception as err:
        raise TypeError(
            f'the audit works on a copy, and {type(model).__name__} cannot be copied: {err}; pass the model as it is '
            'built, without tensors of an earlier forward in its attributes'
        ) from err


def _enter_training(copied: nn.Module, model: nn.Module) -> None:
    held = [name for name, module in model.named_modules() if not module.training] if model.training else []
    copied.train()
    for name in held:
        copied.get_submodule(name).training = False


def _caller(inputs: Any) -> _Caller:
    if isinstance(inputs, Tensor):
        return lambda model: model(inputs)
    if isinstance(inputs, Mapping):
        return lambda model: model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return lambda model: model(*inputs)
    if callable(inputs):
        return inputs
    raise TypeError(
        'inputs must be a tensor, a tuple of positional or a dict of keyword arguments of the forward, or a function '
        f'of the model that returns the outputs that reach the loss, got {type(inputs).__name__}'
    )


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield all floating-point tensors in nested outputs."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from _tensors(value)
    elif hasattr(outputs, '__dict__'):
        yield from _tensors(vars(outputs))


def _map(node: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(node, Tensor):
        return fn(node)
    if type(node) in (tuple, list):
        return type(node)(_map(value, fn) for value in node)
    if type(node) is dict:
        return {key: _map(value, fn) for key, value in node.items()}
    return node


def _with_batch_statistics(module: nn.Module, args: Any, output: Any) -> Any:
    weight, bias = getattr(module, 'weight', None), getattr(module, 'bias', None)
    return F.batch_norm(args[0], None, None, weight, bias, training=True, eps=float(getattr(module, 'eps', 0.0)))
