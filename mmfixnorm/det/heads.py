"""Dense heads of mmdet whose output convolutions are weight-normalised."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import FCOSHead, RetinaHead
from mmdet.registry import MODELS

from mmfixnorm.core.layers import FixNormConv2d, WNConv2d


class WNDenseHeadMixin:
    """Weight-normalises the output convolutions of a dense head, which no norm layer follows (A.4.3).

    Put it before a head that builds its layers in ``_init_layers`` in the list of bases. The stacked convolutions need
    ``conv_cfg=dict(type='WNConv2d')`` unless the head has a ``norm_cfg``.
    """

    score_convs: tuple[str, ...]
    """Names of the convolutions that classify."""
    other_convs: tuple[str, ...]
    """Names of all other output convolutions (boxes, centerness)."""

    def _init_layers(self) -> None:
        super()._init_layers()  # type: ignore[misc]
        for name in self.other_convs:
            setattr(self, name, WNConv2d.from_plain(getattr(self, name)))
        for name in self.score_convs:
            setattr(self, name, self._score_conv(getattr(self, name)))

    def _score_conv(self, plain: Any) -> WNConv2d | FixNormConv2d:
        return WNConv2d.from_plain(plain)


class FixNormDenseHeadMixin(WNDenseHeadMixin):
    """:class:`WNDenseHeadMixin` whose classifying convolutions are :class:`FixNormConv2d` (eq. 29).

    Args:
        alpha (float): Bound on the scale ``g``, in units of ``sqrt(c_out)``, where ``c_out`` is
            ``anchors * classes``.

    Raises:
        ValueError: If ``alpha`` is not > 0.

    Example:
        >>> @MODELS.register_module()
        ... class FixNormATSSHead(FixNormDenseHeadMixin, ATSSHead):
        ...     score_convs = ('atss_cls',)
        ...     other_convs = ('atss_reg', 'atss_centerness')
    """

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        self.alpha = float(alpha)  # the base class builds the layers
        super().__init__(*args, **kwargs)

    def _score_conv(self, plain: Any) -> FixNormConv2d:
        return FixNormConv2d.from_plain(plain, alpha=self.alpha)


@MODELS.register_module()
class WNRetinaHead(WNDenseHeadMixin, RetinaHead):
    """:class:`RetinaHead` with weight-normalised outputs: the baseline of Table 4.

    Takes the arguments of :class:`RetinaHead`.
    """

    score_convs = ('retina_cls',)
    other_convs = ('retina_reg',)


@MODELS.register_module()
class FixNormRetinaHead(FixNormDenseHeadMixin, RetinaHead):
    """:class:`RetinaHead` whose last convolution of the class subnet is a :class:`FixNormConv2d`.

    Takes ``alpha``, see :class:`FixNormDenseHeadMixin`, and the arguments of :class:`RetinaHead`. The bias and its
    prior are unchanged.
    """

    score_convs = WNRetinaHead.score_convs
    other_convs = WNRetinaHead.other_convs


@MODELS.register_module()
class FixNormFCOSHead(FixNormDenseHeadMixin, FCOSHead):
    """:class:`FCOSHead` with a :class:`FixNormConv2d` for the classes.

    Takes ``alpha``, see :class:`FixNormDenseHeadMixin`, and the arguments of :class:`FCOSHead`.
    """

    score_convs = ('conv_cls',)
    other_convs = ('conv_reg', 'conv_centerness')
