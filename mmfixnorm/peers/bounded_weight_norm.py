"""Norm-bounded weight normalisation (Hoffer et al. 2018): convolutions whose weight norm cannot change."""

from __future__ import annotations

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmfixnorm.core.layers import WeightNormalized, WNConv2d

__all__ = ['MeanOnlyBatchNorm2d', 'NormBoundedConv2d']


# A direct child of nn.Conv2d: an `init_cfg` with `layer='Conv2d'` looks at the class and its direct bases only.
@MODELS.register_module()
class NormBoundedConv2d(WeightNormalized, nn.Conv2d):
    r"""``y = conv(x, w) + bias`` with :math:`w_i = \rho\, v_i / \|v_i\|_2` for each output channel ``i``.

    :math:`\rho = \|V\|_F / \sqrt{N}` at the time when ``V`` was filled, with ``N`` output channels: a constant of the
    layer, so the norm stays at the initial norm of the plain layer. ``g`` is :math:`\|V\|_F` and is not trained. Takes
    the arguments of :class:`torch.nn.Conv2d`. Shape: ``(N, C_in, H, W) -> (N, C_out, H', W')``.

    In front of a full batch normalisation it is a plain convolution without weight decay, as both ignore the norm of a
    channel; the authors use it in place of the variance, with :class:`MeanOnlyBatchNorm2d`. mmcv's ``ConvModule`` fills
    weights without notifying the layers: add ``WNScaleInitHook``.

    Hoffer et al., "Norm matters", NeurIPS 2018. Read: the abstract and the authors' code (eladhoffer/norm_matters),
    not the text. There ``rho`` is the mean of the channels' norms (``models/bwn_alt.py``), or the channels keep
    trained shares of the layer's norm (``models/bwn.py``); the root mean square is used here, as it keeps the
    initial norm of the layer exactly.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> model = dict(backbone=dict(
        ...     conv_cfg=dict(type='NormBoundedConv2d'), norm_cfg=dict(type='MeanOnlyBatchNorm2d')))
        >>> custom_hooks = [dict(type='WNScaleInitHook')]
    """

    forward = WNConv2d.forward

    def reset_scale(self) -> None:
        super().reset_scale()
        self.g.requires_grad_(False)

    def effective_weight(self) -> Tensor:
        """Compute the weight with channels of equal norm, in the shape of ``weight``; in float32 or better."""
        dtype = self._compute_dtype
        rho = self.g.to(dtype) / math.sqrt(self.weight.shape[0])
        lengths = torch.linalg.vector_norm(self.weight.flatten(1), dim=1, dtype=dtype)
        return (self.weight * (rho / lengths).view(-1, 1, 1, 1)).to(self.weight.dtype)

    def _scaled(self, input: Tensor) -> tuple[Tensor, Tensor]:
        return input, self.effective_weight()  # channels have factors of their own


@MODELS.register_module()
class MeanOnlyBatchNorm2d(nn.BatchNorm2d):
    r""":math:`y = x - \mathrm{E}[x] + b` per channel: batch normalisation without the variance and without a gain.

    The layer between the convolutions of weight-normalised networks (Salimans and Kingma, "Weight Normalization",
    NeurIPS 2016, section 4, from the abstract; ``models/mean_bn.py`` of Hoffer et al. by its use there). The mean is
    the batch mean in training and the running mean in evaluation. Shape: ``(N, C, H, W)``, unchanged.

    Args:
        num_features (int): ``C``.
        eps (float): Has no effect; mmcv passes it to every norm layer.
        momentum (float): Weight of the batch in the running mean. Defaults to 0.1.
    """

    momentum: float
    running_mean: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=False)
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        mean = input.mean((0, 2, 3)) if self.training else self.running_mean
        if self.training:
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        return input + (self.bias - mean).view(1, -1, 1, 1)
