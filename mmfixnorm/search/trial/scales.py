"""How large the scales of bounded layers become in a training: which alphas it cannot tell from its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LargestScale:
    """The largest ``|g|`` of all layers with a bound over a training, as the alpha that it would just meet.

    Such a layer has a finite ``scale_bound``, its ``alpha`` and one scale ``g``. Not known where ``g`` is sharded,
    nor where a tuned alpha belongs to a module without such a layer, in which it acts in another way. No host sync but
    in :meth:`largest`.
    """

    def __init__(self) -> None:
        self._layers: list[Any] = []
        self._largest: list[Tensor] = []
        self._before = 0.0

    def begin(self, model: nn.Module, before: float, owners: Iterable[Any] = ()) -> None:
        """Look for the layers that have a bound, and begin with their scales as they are now.

        Args:
            model (nn.Module): Wrapped or not.
            before (float): The largest of the training so far; nan if it is not known.
            owners (Iterable): What has the alphas that are tuned.
        """
        self._layers = _bounded(model)
        is_whole = all(layer.g.numel() == 1 and not hasattr(layer.g, 'device_mesh') for layer in self._layers)
        is_bound = all(_bounded(owner) for owner in owners if isinstance(owner, nn.Module))
        self._before = before if is_whole and is_bound else math.nan
        self._largest = [layer.g.detach().abs() for layer in self._layers]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the scales after a step."""
        for i, layer in enumerate(self._layers):
            self._largest[i] = torch.maximum(self._largest[i], layer.g.abs())

    def largest(self) -> float | None:
        """Return the largest so far; None without a bounded layer, or if it is not known or not finite."""
        if not self._layers or not math.isfinite(self._before):
            return None
        # The same number for every alpha: a training that continues one at another alpha takes over its largest.
        units = [float(f'{layer.scale_bound / float(layer.alpha):.12g}') for layer in self._layers]
        values = [v.item() / unit for v, unit in zip(self._largest, units, strict=True)]
        return max(self._before, *values) if all(map(math.isfinite, values)) else None


def _bounded(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if math.isfinite(getattr(m, 'scale_bound', math.inf))]
