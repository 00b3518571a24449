"""Classification heads of mmpretrain with a weight-normalised final layer."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS

from mmfixnorm.core.layers import FixNormLinear, WNLinear


@MODELS.register_module()
class WNLinearClsHead(LinearClsHead):
    """:class:`LinearClsHead` whose ``fc`` is a :class:`WNLinear`: the ablation @WN-FC (Algorithm 5).

    Takes the arguments of the base class.
    """

    def __init__(self, num_classes: int, in_channels: int, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc = WNLinear(in_channels, num_classes)


@MODELS.register_module()
class FixNormLinearClsHead(LinearClsHead):
    """:class:`LinearClsHead` whose ``fc`` is a :class:`FixNormLinear` (eq. 10, Algorithm 6).

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Number of channels of the input feature.
        alpha (float): Bound on the scale ``g``, in units of ``sqrt(num_classes)``.
        **kwargs: Other arguments of the base class.

    Raises:
        ValueError: If ``alpha`` is not > 0.
    """

    def __init__(self, num_classes: int, in_channels: int, alpha: float, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc = FixNormLinear(in_channels, num_classes, alpha=alpha)

    @property
    def alpha(self) -> float:
        """The bound in use."""
        return self.fc.alpha
