"""Object context pooling: the mean of all pixels for each pixel, weighted by similarity (OCNet, Yuan and Wang 2018)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.utils import SelfAttentionBlock
from torch import Tensor, nn

from mmfixnorm.core.layers import WNConv2d

__all__ = ['ObjectContext', 'WNObjectContext']


class ObjectContext(SelfAttentionBlock):
    r"""Self-attention over all pixels with one transform for key and query.

    ``context = W_out softmax(q q^T / sqrt(key_channels)) v``, with ``q = act(norm(conv1x1(x)))`` and ``v`` a 1x1
    convolution of ``x``. The output projection starts at zero: no context.

    ``scaled_dot_product_attention`` computes the product of all pairs of pixels in parts: memory grows with the number
    of pixels and not with its square, forward and backward. Seen with torch 2.11 on a CPU in float32, float64, float16
    and bfloat16, also under autocast. torch falls back to the whole matrix where it has no kernel: on a CPU before
    torch 2.1, and in float64 on a GPU.

    Args:
        in_channels (int): Channels of the input and of the context.
        key_channels (int): Channels of key, query and value. Defaults to 256.
        conv_cfg (dict, optional): Convolution of the key transform.
        norm_cfg (dict, optional): Norm layer of the key transform.
        act_cfg (dict, optional): Activation of the key transform.

    Shape:
        ``(N, in_channels, H, W)`` to the same shape.

    Examples:
        >>> import torch
        >>> block = ObjectContext(8, 4, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
        >>> block(torch.rand(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int = 256,
        *,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            key_in_channels=in_channels,
            query_in_channels=in_channels,
            channels=key_channels,
            out_channels=in_channels,
            share_key_query=True,
            query_downsample=None,
            key_downsample=None,
            key_query_num_convs=1,
            key_query_norm=True,
            value_out_num_convs=1,
            value_out_norm=False,
            matmul_norm=True,
            with_out=True,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        # It is the key transform under a second name, which averaged weights would count twice.
        self.query_project = None

    def forward(self, feats: Tensor) -> Tensor:
        # Called once: the base class runs the shared transform twice, and its BN would count each batch twice.
        query = _pixels(self.key_project(feats))
        value = _pixels(self.value_project(feats))
        # The default scale is 1 / sqrt(key_channels); the argument of that name needs torch 2.1.
        context = F.scaled_dot_product_attention(query, query, value)
        return self.out_project(context.squeeze(1).transpose(1, 2).unflatten(2, feats.shape[2:]))


class WNObjectContext(ObjectContext):
    """:class:`ObjectContext` whose value and output projections, which no norm follows, are :class:`WNConv2d`.

    Unlike in the plain block, the output projection is initialised like any convolution. A weight of zero has no
    direction, and a scale of zero is a bad start: the weight gets no gradient, and the scale only the small component
    along a random direction. As the context is concatenated and a norm layer follows, it need not start at zero.
    """

    def build_project(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Build the layer of the base class, weight-normalised unless a norm layer follows it."""
        layer = super().build_project(*args, **kwargs)
        return layer if isinstance(layer, ConvModule) else WNConv2d.from_plain(layer)

    def init_weights(self) -> None:
        """Set only the bias of the output projection to zero; the base class sets its weight to zero too."""
        nn.init.zeros_(self.out_project.bias)


def _pixels(feats: Tensor) -> Tensor:
    """Reshape ``(N, C, H, W)`` to ``(N, 1, H * W, C)``, with one head."""
    # With any other memory layout torch silently falls back to the whole matrix.
    return feats.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
