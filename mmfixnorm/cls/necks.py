"""Necks that mmpretrain lacks."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.necks import GlobalAveragePooling
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class GlobalAveragePoolingDropout(GlobalAveragePooling):
    """:class:`GlobalAveragePooling` followed by dropout, as in front of EfficientNet's classifier.

    Args:
        dropout_ratio (float): Probability of an element to be zeroed. Defaults to 0.2.
        **kwargs: Arguments of the base class.

    Shape:
        Input (N, C, H, W), or a tuple of such; output a tuple of (N, C).
    """

    def __init__(self, dropout_ratio: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pooled = super().forward(inputs)
        return tuple(self.dropout(x) for x in (pooled if isinstance(pooled, tuple) else (pooled,)))
