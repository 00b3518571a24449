"""Weight-normalised layers with one scale, and the same layers with a bound on that scale.

The formula of each layer is written here only; heads and configs just put layers in their slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from mmfixnorm.core.norms import compute_dtype, tensor_norm

__all__ = [
    'FixNormConv2d',
    'FixNormLinear',
    'WNConv2d',
    'WNLinear',
    'WeightNormalized',
    'fill_scales',
    'fold_layers',
    'replace_layers',
]


class WeightNormalized(nn.Module):
    r"""Base of the four layers: ``W`` enters as ``W / ||W||_F * g`` (eq. 6).

    ``g`` is one learnable scalar of shape ``(1,)`` (FSDP takes no 0-d parameters) and ``||W||_F`` the norm of
    the whole tensor, unlike :func:`torch.nn.utils.parametrizations.weight_norm`, which is per output row. The
    state keys are the plain layer's plus ``g``.

    ``g`` is set to ``||W||_F`` whenever ``W`` is filled: by :meth:`reset_parameters`, by a function passed to
    :meth:`torch.nn.Module.apply` (hence also by an ``init_cfg`` of mmengine) and by a checkpoint without ``g``.
    The layer then computes the same as the plain layer. A checkpoint with ``g`` keeps its own value. Code that writes
    to ``layer.weight`` directly must call :meth:`reset_scale` afterwards, or :func:`fill_scales` on the model.

    Another parameter in place of ``weight`` raises a RuntimeError: ``fuse_conv_bn`` of mmcv and the functions of
    :mod:`torch.nn.utils.fusion` assign a product with the statistics of a norm layer, which the division by its norm
    would undo. :func:`fold_layers` first.

    A batch normalisation on stored statistics, or a frozen one, is an affine map that does not take the scale of ``W``
    out; its own weight trains the scale where it is trained. In front of it ``train_scale=False`` holds the scale: the
    layer computes what the plain one does, ``W`` is scale-invariant, and nothing is trained twice. ``g`` is a buffer
    then, under the same key, so that checkpoints load either way and fold alike. A parameter that is frozen would be
    thawed with its backbone, and flattened with the weights by FSDP; a buffer is in no optimizer, is not waited for by
    DDP, and an average of weights (EMA) copies it.

    Args:
        *args: Of the plain layer.
        train_scale (bool): Whether ``g`` is trained. Defaults to True.
        **kwargs: Of the plain layer.
    """

    weight: Tensor
    g: Tensor
    train_scale = True
    _loads_by_assignment = False

    def __init__(self, *args: Any, train_scale: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.train_scale = train_scale
        if train_scale:
            self.g = nn.Parameter(self.weight.new_empty(1))
        else:
            self.register_buffer('g', self.weight.new_empty(1))
        self.reset_scale()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'weight' and self._is_other_weight(value):
            raise RuntimeError(
                f'{type(self).__name__} divides its weight by its norm, so another weight in its place, as fusing with '
                'a normalisation makes it (fuse_conv_bn), would give wrong outputs. Fold the layers first, with '
                'mmfixnorm.core.fold_layers(model) or the command `mmfixnorm fold`. To fill the weight, copy into it '
                'under torch.no_grad() and call reset_scale()'
            )
        super().__setattr__(name, value)

    def _is_other_weight(self, value: Any) -> bool:
        present = self.__dict__.get('_parameters', {}).get('weight')
        if present is None or present is value or present.is_meta or self._loads_by_assignment:
            return False
        # FSDP2 exchanges the shard of a parameter for the whole one and back.
        return not any(hasattr(tensor, 'device_mesh') for tensor in (present, value))

    @classmethod
    def from_plain(cls, layer: nn.Linear | nn.Conv2d, **kwargs: Any) -> Self:
        """Make a layer that takes over the parameters of a plain one and, below a bound, computes the same.

        Draws no random numbers, so a model with replaced layers starts from the same weights as the original. The scale
        of a frozen layer is frozen too.

        Args:
            layer (nn.Linear | nn.Conv2d): The plain layer; the new one takes its weight and bias tensors, not copies.
            **kwargs: Further arguments of this class: ``alpha``, ``train_scale``.

        Raises:
            TypeError: If ``layer`` is of another kind, or already weight-normalised.
        """
        plain = next(base for base in (nn.Linear, nn.Conv2d) if issubclass(cls, base))
        if not isinstance(layer, plain) or isinstance(layer, WeightNormalized):
            raise TypeError(f'{cls.__name__} takes the place of a plain nn.{plain.__name__}, got {layer!r}')
        with torch.device('meta'):
            new = cls(**_arguments(layer), **kwargs)
        new._parameters.update(weight=layer._parameters['weight'], bias=layer._parameters['bias'])
        g = layer.weight.new_empty(1)
        new.g = nn.Parameter(g, requires_grad=layer.weight.requires_grad) if new.train_scale else g
        new.reset_scale()
        return new.train(layer.training)

    @torch.no_grad()
    def to_plain(self) -> nn.Linear | nn.Conv2d:
        """Make the plain layer that computes the same; its weight is a copy of :meth:`effective_weight`."""
        assert isinstance(self, (nn.Linear, nn.Conv2d))
        with torch.device('meta'):
            plain = nn.Linear(**_arguments(self)) if isinstance(self, nn.Linear) else nn.Conv2d(**_arguments(self))
        plain.weight = nn.Parameter(self.effective_weight(), requires_grad=self.weight.requires_grad)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.clone(), requires_grad=self.bias.requires_grad)
        return plain.train(self.training)

    @property
    def scale_bound(self) -> float:
        """The largest value of ``|g|`` that has an effect; ``inf`` for plain weight normalisation."""
        return math.inf

    @torch.no_grad()
    def reset_scale(self) -> None:
        """Set ``g`` to ``||W||_F``."""
        norm = self._weight_norm()
        if not self.train_scale and hasattr(norm, 'full_tensor'):  # FSDP2 shards the weight, but no buffers
            norm = norm.full_tensor()
        self.g.copy_(norm)
        self._scale_is_own = False  # True once `g` must no longer follow `W`

    @torch.no_grad()
    def set_scale_(self, value: float) -> None:
        """Set ``g`` to a value that :func:`fill_scales` does not overwrite.

        ``0.0`` corresponds to a plain layer whose weight starts at zero, but ``W`` keeps a direction.
        """
        self.g.fill_(value)
        self._scale_is_own = True

    def reset_parameters(self) -> None:
        """Initialise like the plain layer and set ``g`` to the norm of the result."""
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, 'g'):  # not yet while the plain layer's constructor runs
            self.reset_scale()

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Apply ``fn`` as :meth:`torch.nn.Module.apply` does; if it filled the weight, ``g`` follows."""
        if self.weight.is_meta:
            return super().apply(fn)
        # By value, because `weight.data.normal_()` does not touch the version counter.
        weight, g = self.weight.detach().clone(), self.g.detach().clone()
        super().apply(fn)
        if torch.equal(g, self.g) and not torch.equal(weight, self.weight):
            self.reset_scale()
        return self

    def bounded_scale(self) -> Tensor:
        """Return ``g`` between ``-scale_bound`` and ``scale_bound``, shape (1,).

        Beyond the bound ``g`` gets no gradient (section 2.3). A negative ``g`` is bounded as well: it reaches that side
        where the loss is high at the start, and would have no bound otherwise.
        """
        bound = self.scale_bound
        return self.g if math.isinf(bound) else self.g.clamp(min=-bound, max=bound)

    def effective_weight(self) -> Tensor:
        """Compute the weight of the plain layer with the same output, in the shape of ``weight``.

        The factor is computed in float32 or better, also under autocast.
        """
        return (self.weight * self._factor()).to(self.weight.dtype)

    def _factor(self) -> Tensor:
        return self.bounded_scale().to(self._compute_dtype) / self._weight_norm()

    def _scaled(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return input and weight for the plain operation, which is linear in both: the smaller one is scaled.

        In evaluation always the weight, so that a folded layer gives the same bits; in half precision as well, as the
        input could leave the range.
        """
        is_full = input.dtype == self.weight.dtype == self._compute_dtype
        if self.training and is_full and input.numel() < self.weight.numel():
            return input * self._factor(), self.weight
        return input, self.effective_weight()

    @property
    def _compute_dtype(self) -> torch.dtype:
        return compute_dtype(self.weight.dtype)

    def _weight_norm(self) -> Tensor:
        return tensor_norm(self.weight).to(self._compute_dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        weight, g = state_dict.get(f'{prefix}weight'), state_dict.get(f'{prefix}g')
        if weight is None:
            pass  # the base class reports what is missing
        elif weight.shape != self.weight.shape:
            # The base class refuses this weight; its `g` must not be loaded without it.
            state_dict = {**state_dict, f'{prefix}g': self.g.detach()}
        elif g is None:
            norm = tensor_norm(weight.detach()).to(weight.dtype)  # with assign=True the layer keeps the dtype
            state_dict = {**state_dict, f'{prefix}g': norm.reshape(1)}
        else:
            self._scale_is_own = True
        self._loads_by_assignment = True  # with assign=True
        try:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        finally:
            del self._loads_by_assignment

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}{"" if self.train_scale else ", train_scale=False"}'


class _BoundedScale(WeightNormalized):
    """``g`` bounded by ``alpha * sqrt(number of outputs)`` (eq. 10)."""

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        if not alpha > 0:  # also catches nan
            raise ValueError(f'alpha must be > 0 (math.inf = no bound), got {alpha!r}')
        super().__init__(*args, **kwargs)
        self.alpha = float(alpha)

    @property
    def scale_bound(self) -> float:
        # `weight.shape[0]` is out_features of a linear layer and c_out of a convolution.
        return self.alpha * math.sqrt(self.weight.shape[0])

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, alpha={self.alpha}'


class WNLinear(WeightNormalized, nn.Linear):
    r"""``y = x W^T / ||W||_F * g + bias`` (eq. 6).

    Takes the arguments of :class:`torch.nn.Linear` and ``train_scale``, see :class:`WeightNormalized`. Shape:
    ``(*, in_features) -> (*, out_features)``.

    Example:
        >>> plain = torch.nn.Linear(8, 4)
        >>> layer = WNLinear(8, 4)
        >>> _ = layer.load_state_dict(plain.state_dict())  # no `g`: it becomes ||W||
        >>> x = torch.randn(2, 8)
        >>> torch.allclose(layer(x), plain(x), atol=1e-6)
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(*self._scaled(input), self.bias)


class WNConv2d(WeightNormalized, nn.Conv2d):
    r"""``y = conv(x, W) / ||W||_F * g + bias``.

    Takes the arguments of :class:`torch.nn.Conv2d` and ``train_scale``, see :class:`WeightNormalized`. Shape:
    ``(N, C_in, H, W) -> (N, C_out, H', W')``.

    Example of a config:
        >>> backbone = dict(conv_cfg=dict(type='WNConv2d', train_scale=False), norm_eval=True)
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(*self._scaled(input), self.bias)


# Both are direct children of the plain layer: an `init_cfg` of mmengine with `layer='Linear'` looks at the class
# and at its direct bases only.
class FixNormLinear(_BoundedScale, nn.Linear):
    r"""``y = x W^T / ||W||_F * min(g, alpha * sqrt(out_features)) + bias`` (eq. 10).

    A negative ``g`` is bounded from below by ``-alpha * sqrt(out_features)``.

    Takes the arguments of :class:`torch.nn.Linear`. Shape: ``(*, in_features) -> (*, out_features)``.

    Args:
        alpha (float): Bound on ``g`` in units of ``sqrt(out_features)``; ``math.inf`` for no bound.

    Raises:
        ValueError: If ``alpha`` is not > 0.
    """

    forward = WNLinear.forward


class FixNormConv2d(_BoundedScale, nn.Conv2d):
    r"""``y = conv(x, W) / ||W||_F * min(g, alpha * sqrt(c_out)) + bias`` (eq. 29).

    A negative ``g`` is bounded from below by ``-alpha * sqrt(c_out)``.

    Takes the arguments of :class:`torch.nn.Conv2d`. Shape: ``(N, C_in, H, W) -> (N, C_out, H', W')``.

    Args:
        alpha (float): Bound on ``g`` in units of ``sqrt(out_channels)``; ``math.inf`` for no bound.

    Raises:
        ValueError: If ``alpha`` is not > 0.
    """

    forward = WNConv2d.forward


def _arguments(layer: nn.Linear | nn.Conv2d) -> dict[str, Any]:
    """Recover the arguments of the constructor of a plain layer."""
    names = ['in_features', 'out_features']
    if isinstance(layer, nn.Conv2d):
        names = [
            'in_channels',
            'out_channels',
            'kernel_size',
            'stride',
            'padding',
            'dilation',
            'groups',
            'padding_mode',
        ]
    return {**{name: getattr(layer, name) for name in names}, 'bias': layer.bias is not None}


@torch.no_grad()
def fill_scales(model: nn.Module) -> None:
    """Set every ``g`` of ``model`` to ``||W||_F``, except those loaded from a checkpoint or set by hand.

    Needed where code fills weights without notifying the layers, as ``ConvModule`` of mmcv does. Call it once, before
    the first step; it marks every ``g`` as final, so a second call changes nothing.

    Raises:
        ValueError: If a weight has no direction: all zero, or not finite.
    """
    for name, module in model.named_modules():
        if not isinstance(module, WeightNormalized):
            continue
        norm = module._weight_norm().item()
        if not (math.isfinite(norm) and norm > 0):
            raise ValueError(
                f'{name}.weight: the norm of a weight-normalised layer must be finite and > 0, got {norm}; check '
                'its init_cfg (a layer that starts at zero needs a scale of zero instead: set_scale_(0.0)) or at '
                'the checkpoint that was loaded'
            )
        if not module._scale_is_own:
            module.reset_scale()
            module._scale_is_own = True


def replace_layers(model: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> list[str]:
    """Replace layers of a model, in place.

    Args:
        model (nn.Module): The model. Build its optimizer and any wrapper around it afterwards.
        layers (Mapping[nn.Module, nn.Module]): Each layer to be replaced, and the new one.

    Returns:
        list[str]: The names of the replaced layers, a shared one under each of its names.
    """
    replaced = []
    for owner_name, owner in list(model.named_modules()):
        for name, child in owner._modules.items():
            if child in layers:
                owner._modules[name] = layers[child]
                replaced.append(f'{owner_name}.{name}'.lstrip('.'))
    return replaced


def fold_layers(model: nn.Module) -> list[str]:
    """Replace every weight-normalised layer in ``model`` by its plain equivalent, in place.

    The state of the result fits the model that was built with plain layers.

    Returns:
        list[str]: The names of the layers replaced, a shared one under each of its names.
    """
    return replace_layers(
        model, {layer: layer.to_plain() for layer in model.modules() if isinstance(layer, WeightNormalized)}
    )
