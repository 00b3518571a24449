"""Mean cross-boundary risk: how far features lean across the boundaries between classes (eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['cross_boundary_risk']


@torch.no_grad()
def cross_boundary_risk(features: Tensor, labels: Tensor, weight: Tensor, reduction: str = 'mean') -> Tensor:
    r"""Compute the mean cross-boundary risk of features in front of a final linear layer (eq. 9).

    .. math::
        \mathrm{MCBR}(x, k, W) = \frac{1}{C - 1} \sum_{j \ne k} \cos(x, W_j - W_k)

    The risk is in [-1, 1]; the larger it is, the closer the features are to the class boundaries. Where a vector has no
    direction (a feature of zeros, two equal rows of the weight) the cosine counts as 0.

    Args:
        features (Tensor): Input of the final linear layer, shape (N, D).
        labels (Tensor): Class of each sample, integers of shape (N, ).
        weight (Tensor): Weight of the final linear layer, shape (C, D), C >= 2.
        reduction (str): 'mean' over the samples, or 'none'. Defaults to 'mean'.

    Returns:
        Tensor: 0-d, or of shape (N, ) for 'none'; float32, or float64 if an input is.

    Raises:
        ValueError: If the shapes do not match, a label is out of range or ``reduction`` is unknown.
    """
    if reduction not in ('mean', 'none'):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    shapes = f'features {tuple(features.shape)}, labels {tuple(labels.shape)}, weight {tuple(weight.shape)}'
    if features.ndim != 2 or labels.shape != features.shape[:1] or weight.shape[1:] != features.shape[1:]:
        raise ValueError(f'expected features (N, D), labels (N, ) and weight (C, D), got {shapes}')
    num_classes = weight.shape[0]
    if num_classes < 2:
        raise ValueError(f'the risk needs at least 2 classes, got {shapes}')
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f'labels must lie in [0, {num_classes - 1}], got {int(labels.min())} to {int(labels.max())}')
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    x, w = features.to(dtype), weight.to(dtype)
    own = w[labels]
    dots = x @ w.T - (x * own).sum(1, keepdim=True)  # x . (W_j - W_k), (N, C); 0 for j = k
    # The matrix product would lose the small distances to cancellation.
    lengths = x.norm(dim=1, keepdim=True) * torch.cdist(own, w, compute_mode='donot_use_mm_for_euclid_dist')
    cosines = torch.where(lengths > 0, dots / lengths, torch.zeros_like(dots))
    cosines = cosines.scatter(1, labels.long()[:, None], 0.0)
    risk = cosines.sum(1) / (num_classes - 1)
    return risk.mean() if reduction == 'mean' else risk
