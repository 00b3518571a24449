r"""How far a step turns weights: the angle per step, measured inside the optimizer.

The angle between the weights :math:`w_t` before a step and :math:`w_{t+1}` after it,

.. math:: \Delta_t = \arccos \frac{\langle w_t, w_{t+1} \rangle}{\|w_t\| \|w_{t+1}\|},

in radians, is the *angular update* of Wan et al., "Spherical Motion Dynamics", NeurIPS 2021
(`arXiv:2006.08419 <https://arxiv.org/abs/2006.08419>`_), after which Yun et al., "On the Angular Update and
Hyperparameter Tuning of a Scale-Invariant Network", ECCV 2022, tune hyperparameters. It says how far scale-invariant
weights really go, under every optimizer, where ``lr / ||W||^2`` (eq. 4 of FixNorm) does for SGD alone. Under SGD with
momentum ``mu`` and weight decay ``wd`` it settles at about ``sqrt(2 * lr * wd / (1 + mu))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmfixnorm.core.norm_fixing import NormFixer, add_step_hooks
from mmfixnorm.core.norms import compute_dtype, inner_products, sum_dtype, tensor_norm
from mmfixnorm.core.sharding import local_part, sum_over_processes

__all__ = ['StepAngles', 'StepMeter', 'joint_cosine']


class StepAngles(NamedTuple):
    """What a step did to weights.

    Attributes:
        joint: Angle of all weights as one vector, in radians.
        layers: Angle of each tensor, in radians: 0 if the step did not move it, nan if all its elements are 0.
        radial_share: The part of the step along the weights, over its length, in [0, 1]; all weights as one vector, and
            the step as the optimizer proposed it, before norm fixing. None if the step moved nothing.
    """

    joint: float
    layers: list[float]
    radial_share: float | None

    @property
    def median(self) -> float:
        """Median angle of the tensors that the step moved, in radians; 0 if it moved none."""
        return median([angle for angle in self.layers if angle > 0] or [0.0])

    @property
    def largest(self) -> int:
        """Position of the tensor that the step turned most."""
        return max(range(len(self.layers)), key=lambda i: -1.0 if math.isnan(self.layers[i]) else self.layers[i])


class StepMeter:
    """Measures the angle of single steps, from inside ``optimizer.step``.

    A step is measured if :meth:`arm` was called before it; other steps cost the test of a flag, and no copy. A measured
    step needs a copy of the weights until it has ended, and :meth:`read` is the only call that waits for the device.
    Angles are resolved down to the rounding of the weights, about 3e-8 rad for float32. Sharded weights are measured as
    a whole; all processes must then measure the same steps.
    """

    def __init__(self) -> None:
        self._optimizer: Optimizer | None = None
        self._norm_fixers: tuple[NormFixer, ...] = ()
        self._handles: list[Any] = []
        self._weights: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._products: Tensor | None = None
        self._measured: Tensor | None = None

    def install(self, optimizer: Optimizer, norm_fixers: Sequence[NormFixer] = ()) -> None:
        """Hook into ``optimizer.step``; does nothing if the hooks are there already.

        Args:
            optimizer (Optimizer): Takes the steps.
            norm_fixers (Sequence[NormFixer]): Those that change the weights after its steps: their changes lie between
                the step that the optimizer proposes and its end.
        """
        if self._optimizer is optimizer and self._norm_fixers == tuple(norm_fixers):
            return
        self.remove()
        for norm_fixer in norm_fixers:
            norm_fixer.install(optimizer)
        self._handles = add_step_hooks(
            optimizer, self._before, self._take_proposed, first_before=True, first_after=True
        )
        self._handles.append(optimizer.register_step_post_hook(self._after))
        self._optimizer, self._norm_fixers = optimizer, tuple(norm_fixers)

    def remove(self) -> None:
        """Remove the hooks from the optimizer; those of norm fixing stay."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer, self._norm_fixers = [], None, ()

    def arm(self, weights: Sequence[Tensor]) -> None:
        """Measure what the steps from here to the next :meth:`read` do to these weights.

        Raises:
            ValueError: If there are no weights.
        """
        if not weights:
            raise ValueError('there are no weights whose angle per step could be measured')
        self._weights, self._measured = list(weights), None

    def read(self) -> StepAngles | None:
        """Return what the last step since :meth:`arm` did, and measure no more; waits for the device.

        Returns:
            StepAngles | None: None if no step was taken: gradients were accumulated, or a loss scaler skipped the step.
        """
        measured, self._weights, self._copies, self._measured = self._measured, [], [], None
        if measured is None:
            return None
        values = measured.cpu().double()  # the one wait for the device
        squared, step_squared, product, skipped = values[:4].tolist()
        before, after, chords = values[4:].view(3, -1)
        if skipped:
            return None
        radial = abs(product) / math.sqrt(squared * step_squared) if step_squared else None
        before, after = before / before.norm(), after / after.norm()
        # The chord of the joint vectors on the unit sphere, from those of the tensors.
        joint = ((before - after).square() + before * after * chords.square()).sum().sqrt()
        layers = torch.where((before == 0) | (after == 0), math.nan, chords)
        joint_angle, *angles = (2 * torch.asin(torch.cat([joint.reshape(1), layers]).clamp(max=2) / 2)).tolist()
        return StepAngles(joint_angle, angles, None if radial is None else min(radial, 1.0))

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._weights:
            self._copies = [local_part(weight).detach().clone() for weight in self._weights]

    @torch.no_grad()
    def _take_proposed(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Measure the step of the optimizer, which norm fixing has not changed yet."""
        if not self._copies:
            return
        alone = {id(t) for norm_fixer in self._norm_fixers for t in norm_fixer.stepped_from_zero(optimizer)}
        products = []
        for weight, copy in zip(self._weights, self._copies, strict=True):  # one by one, so that one step is in memory
            step = local_part(weight).to(compute_dtype(copy.dtype))
            products += inner_products([copy], [step if id(weight) in alone else step - copy])
        self._products = self._sum(products)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Measure how far each tensor has turned, by the chord between its directions before and after.

        The chord keeps its digits for small angles, unlike the cosine, and whatever the change of the norm.
        """
        if not self._copies or self._products is None:
            return
        parts = [local_part(weight) for weight in self._weights]
        before = self._products[0].sqrt()
        after = self._sum([(tensor_norm(part) ** 2).reshape(1, 1) for part in parts])[0].sqrt()
        factors = torch.where((before > 0) & (after > 0), before / after, 1.0)
        gaps = []
        for part, copy, factor in zip(parts, self._copies, factors, strict=True):
            dtype = compute_dtype(part.dtype)
            gap = (part.to(dtype) * factor.to(part.device, dtype)).sub_(copy)
            gaps.append((tensor_norm(gap) ** 2).reshape(1, 1))
        chords = torch.where(before > 0, self._sum(gaps)[0].sqrt() / before, 0.0)
        found_inf = getattr(optimizer, 'found_inf', None)  # a fused optimizer skips the step by itself
        skipped = before.new_zeros(1) if found_inf is None else (found_inf > 0).reshape(1).to(before)
        self._measured = torch.cat([self._products.sum(dim=1), skipped, before, after, chords])
        self._copies, self._products = [], None

    def _sum(self, columns: Sequence[Tensor]) -> Tensor:
        """Put the sums of all tensors side by side, each over the processes that share it."""
        device = self._copies[0].device
        columns = [column.to(device, sum_dtype(device)) for column in columns]
        return torch.cat(sum_over_processes(self._weights, columns), dim=1)


@torch.no_grad()
def joint_cosine(weights: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Compute the cosine between two sets of weights, each as one vector: 0-d, on the device of the first.

    Args:
        weights (Sequence[Tensor]): The first set; sharded weights count as a whole.
        others (Sequence[Tensor]): The second one, the :func:`~mmfixnorm.core.sharding.local_part` of each tensor.
    """
    columns = inner_products([local_part(weight) for weight in weights], others)
    squared, other_squared, product = torch.cat(sum_over_processes(weights, columns), dim=1).sum(dim=1)
    return product / (squared * other_squared).sqrt()
