"""Weight-normalised layers with one scale, and the same with a bound on that scale.

The formula of each layer stands here and nowhere else; heads and configs only put layers in their slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

__all__ = [
    'FixNormConv2d',
    'FixNormLinear',
    'WNConv2d',
    'WNLinear',
    'WeightNormalized',
    'fill_scales_',
]


class WeightNormalized(nn.Module):
    r"""What the four layers share: ``W`` enters as ``W / ||W||_F * g`` (eq. 6).

    ``g`` is one learnable scalar of shape ``(1,)`` (FSDP takes no 0-d parameters) and ``||W||_F`` the norm of
    the whole tensor, unlike :func:`torch.nn.utils.parametrizations.weight_norm`, which is per output row. The
    state keys are the plain layer's plus ``g``.

    ``g`` is set to ``||W||_F`` whenever ``W`` is filled: by :meth:`reset_parameters`, by a function handed to
    :meth:`torch.nn.Module.apply` (so also by an ``init_cfg`` of mmengine) and by a checkpoint without ``g``.
    The layer then computes what the plain layer would. A checkpoint with ``g`` brings its own. Code that writes
    to ``layer.weight`` directly calls :meth:`reset_scale` afterwards, or :func:`fill_scales_` on the model.
    """

    weight: Tensor
    g: nn.Parameter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.g = nn.Parameter(self.weight.new_empty(1))
        self.reset_scale()

    @property
    def scale_bound(self) -> float:
        """The largest value of ``g`` that has an effect; ``inf`` for plain weight normalisation."""
        return math.inf

    @torch.no_grad()
    def reset_scale(self) -> None:
        """Set ``g`` to ``||W||_F``."""
        self.g.copy_(self._weight_norm())
        self._scale_is_own = False  # becomes True with a `g` that must not follow `W` any more

    def reset_parameters(self) -> None:
        """Initialise like the plain layer and set ``g`` to the norm of the result."""
        super().reset_parameters()  # type: ignore[misc]
        if 'g' in self._parameters:  # not yet while the plain layer's constructor runs
            self.reset_scale()

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Like :meth:`torch.nn.Module.apply`; if ``fn`` filled the weight, ``g`` follows."""
        if self.weight.is_meta:
            return super().apply(fn)
        # By value, because `weight.data.normal_()` does not touch the version counter.
        weight, g = self.weight.detach().clone(), self.g.detach().clone()
        super().apply(fn)
        if torch.equal(g, self.g) and not torch.equal(weight, self.weight):
            self.reset_scale()
        return self

    def bounded_scale(self) -> Tensor:
        """``min(g, scale_bound)``, shape (1,); above the bound ``g`` gets no gradient (section 2.3)."""
        return self.g if math.isinf(self.scale_bound) else self.g.clamp(max=self.scale_bound)

    def effective_weight(self) -> Tensor:
        """The weight that the plain layer with the same output has, in the shape of ``weight``.

        The factor is computed in float32 or better, also under autocast.
        """
        factor = self.bounded_scale().to(self._compute_dtype) / self._weight_norm()
        return (self.weight * factor).to(self.weight.dtype)

    @property
    def _compute_dtype(self) -> torch.dtype:
        # Not torch.promote_types, which torch 2.1 cannot compile.
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def _weight_norm(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight, dtype=self._compute_dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        weight, g = state_dict.get(f'{prefix}weight'), state_dict.get(f'{prefix}g')
        if weight is None:
            pass  # the base class reports what is missing
        elif weight.shape != self.weight.shape:
            # The weight will be refused; a `g` that belongs to it must not come alone.
            state_dict = {**state_dict, f'{prefix}g': self.g.detach()}
        elif g is None:
            norm = torch.linalg.vector_norm(weight, dtype=self._compute_dtype)
            state_dict = {**state_dict, f'{prefix}g': norm.reshape(1)}
        else:
            self._scale_is_own = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


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

    Takes the arguments of :class:`torch.nn.Linear`. Shape: ``(*, in_features) -> (*, out_features)``.

    Example:
        >>> plain = torch.nn.Linear(8, 4)
        >>> layer = WNLinear(8, 4)
        >>> _ = layer.load_state_dict(plain.state_dict())  # no `g`: it becomes ||W||
        >>> x = torch.randn(2, 8)
        >>> torch.allclose(layer(x), plain(x), atol=1e-6)
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.effective_weight(), self.bias)


class WNConv2d(WeightNormalized, nn.Conv2d):
    r"""``y = conv(x, W) / ||W||_F * g + bias``.

    Takes the arguments of :class:`torch.nn.Conv2d`. Shape: ``(N, C_in, H, W) -> (N, C_out, H', W')``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)


# Both are direct children of the plain layer: an `init_cfg` of mmengine with `layer='Linear'` looks at the class
# and at its direct bases only.
class FixNormLinear(_BoundedScale, nn.Linear):
    r"""``y = x W^T / ||W||_F * min(g, alpha * sqrt(out_features)) + bias`` (eq. 10).

    Takes the arguments of :class:`torch.nn.Linear`. Shape: ``(*, in_features) -> (*, out_features)``.

    Args:
        alpha (float): Bound on ``g`` in units of ``sqrt(out_features)``; ``math.inf`` for no bound.

    Raises:
        ValueError: If ``alpha`` is not > 0.
    """

    forward = WNLinear.forward


class FixNormConv2d(_BoundedScale, nn.Conv2d):
    r"""``y = conv(x, W) / ||W||_F * min(g, alpha * sqrt(c_out)) + bias`` (eq. 29).

    Takes the arguments of :class:`torch.nn.Conv2d`. Shape: ``(N, C_in, H, W) -> (N, C_out, H', W')``.

    Args:
        alpha (float): Bound on ``g`` in units of ``sqrt(out_channels)``; ``math.inf`` for no bound.

    Raises:
        ValueError: If ``alpha`` is not > 0.
    """

    forward = WNConv2d.forward


def fill_scales_(model: nn.Module) -> None:
    """Set every ``g`` of ``model`` to ``||W||_F``, but for those that a checkpoint brought.

    For code that fills weights without telling the layers, as ``ConvModule`` of mmcv does. To be called once,
    before the first step; afterwards every ``g`` counts as its own, and a second call changes nothing.
    """
    for module in model.modules():
        if isinstance(module, WeightNormalized) and not module._scale_is_own:
            module.reset_scale()
            module._scale_is_own = True
