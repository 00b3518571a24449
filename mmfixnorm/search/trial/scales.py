"""How large the scales of bounded layers become in a training: which alphas it cannot tell from its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.sharding import shard_key


class LargestScale:
    """The largest ``|g|`` of all layers with a bound over a training, as the alpha that it would just meet.

    No host sync but in :meth:`largest`. Where ``g`` is sharded it is not known.
    """

    def __init__(self) -> None:
        self._layers: list[WeightNormalized] = []
        self._largest: list[Tensor] = []
        self._before = 0.0

    def begin(self, model: nn.Module, before: float) -> None:
        """Look for the layers that have a bound, and begin with their scales as they are now.

        Args:
            model (nn.Module): Wrapped or not.
            before (float): The largest of the training so far; nan if it is not known.
        """
        self._layers = [m for m in model.modules() if isinstance(m, WeightNormalized) and math.isfinite(m.scale_bound)]
        self._before = math.nan if any(shard_key(layer.g) is not None for layer in self._layers) else before
        self._largest = [layer.g.detach().abs() for layer in self._layers]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the scales after a step."""
        for i, layer in enumerate(self._layers):
            self._largest[i] = torch.maximum(self._largest[i], layer.g.abs())

    def largest(self) -> float | None:
        """Return the largest so far; None without a bounded layer, or if it is not known or not finite."""
        units = [layer.scale_bound / float(layer.alpha) for layer in self._layers]  # type: ignore[arg-type]
        values = [self._before, *(v.item() / unit for v, unit in zip(self._largest, units, strict=True))]
        return max(values) if self._layers and all(map(math.isfinite, values)) else None
