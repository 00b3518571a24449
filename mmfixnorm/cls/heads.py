"""Classification heads of mmpretrain with a weight-normalised final layer."""

from __future__ import annotations

import math
from typing import Any

from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS

from mmfixnorm.core.layers import FixNormLinear, WNLinear
from mmfixnorm.errors import ConfigError


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
        alpha (float | str): Bound on the scale ``g``, in units of ``sqrt(num_classes)``. ``'auto'``: no bound until
            :class:`AutoAlphaHook`, which must be in ``custom_hooks``, sets one in training.
        **kwargs: Other arguments of the base class.

    Raises:
        ValueError: If ``alpha`` is neither > 0 nor ``'auto'``.
        ConfigError: At the first loss, with ``alpha='auto'`` and no hook to set it.
    """

    def __init__(self, num_classes: int, in_channels: int, alpha: float | str, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        if isinstance(alpha, str) and alpha != 'auto':
            raise ValueError(f"alpha must be > 0 or 'auto', got {alpha!r}")
        self.waits_for_alpha = alpha == 'auto'
        self.fc = FixNormLinear(in_channels, num_classes, alpha=math.inf if isinstance(alpha, str) else alpha)

    @property
    def alpha(self) -> float:
        """The bound in use."""
        return self.fc.alpha

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.waits_for_alpha:
            raise ConfigError(
                "model.head.alpha='auto' needs a hook that sets it; add dict(type='AutoAlphaHook') to "
                'custom_hooks, or give alpha a number'
            )
        return super().loss(*args, **kwargs)
