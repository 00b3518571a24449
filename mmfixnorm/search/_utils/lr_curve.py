r"""A curve of the metric over the learning rate, fitted to a few trainings whose noise is known.

Accuracy over the logarithm of the learning rate falls on both sides of its top, more steeply on the right. Here:

.. math:: f(x) = A - B\, \min(1, c\, (x - m)^2),

with x in octaves, :math:`c` one number left of the top and a larger or equal one right of it, and B the best value:
more cannot be lost, so that no value counts as less than 0, and no loss as more than twice the lowest. The place of the
top and both curvatures have a prior on a grid, and :math:`A` is near the best value; noise grows down the slopes, where
seeds differ most. So a few values give a posterior by a sum, without any optimisation that could fail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_OCTAVES = np.arange(-6.0, 6.01, 0.25)  # of the top, around the middle of the range
_LEFT, _RIGHT = (0.004, 0.012, 0.036, 0.1), (0.03, 0.1, 0.3, 1.0)  # parts of the best value that are lost in an octave
_SPREAD = 1.5  # octaves, standard deviation of the top around the middle of the range
_STEEP, _MORE_NOISE = 0.3, 3.0  # a training that has lost so much of the best value has so much more noise
_HEADROOM = 0.3  # of the best value: how far the top is above it, or below
_SURPRISE = 4.0  # nats at most for a top that is farther away: all values so far may be bad ones


class Estimate(NamedTuple):
    """What the curve says of one learning rate, in units of the metric: mean and standard deviation."""

    mean: float
    sd: float


class LRCurve:
    """The posterior of the curve.

    Args:
        lrs (Sequence[float]): Learning rates of full trainings; at least one.
        values (Sequence[float | None]): Their metric; None for one that diverged.
        middle (float): Learning rate around which the top is expected.
        rule (str): ``'greater'`` or ``'less'``.
        noise (float): Standard deviation of the metric of one training between seeds, over the best value.
    """

    def __init__(
        self, lrs: Sequence[float], values: Sequence[float | None], middle: float, rule: str, noise: float
    ) -> None:
        self._sign = 1.0 if rule == 'greater' else -1.0
        finite = [self._sign * v for v in values if v is not None]
        best = max(finite)
        self._unit = abs(best) or 1.0
        worst = best - self._unit
        y = np.array([worst if v is None else max(worst, self._sign * v) for v in values])
        self.noise = noise * self._unit
        self._middle = math.log2(middle)
        grid = [(m, left, right) for m, left, right in product(_OCTAVES, _LEFT, _RIGHT) if right >= left]
        self._top, self._left, self._right = (np.array(column) for column in zip(*grid, strict=True))
        drops = np.stack([self._drop(lr) for lr in lrs], axis=1)  # (hypotheses, trainings)
        on_slope = np.minimum(1.0, drops / (_STEEP * self._unit))
        precision = (self.noise * (1 + _MORE_NOISE * on_slope)) ** -2
        heights = y + drops
        total = precision.sum(axis=1)
        self._height = (precision * heights).sum(axis=1) / total
        self._variance = 1.0 / total  # of the height, beside the noise of the trainings
        error = (precision * (heights - self._height[:, None]) ** 2).sum(axis=1)
        log = -0.5 * error + 0.5 * np.log(precision).sum(axis=1) - 0.5 * np.log(total)
        log -= 0.5 * (self._top / _SPREAD) ** 2
        above = (self._height - max(y)) / (_HEADROOM * self._unit)
        log -= np.minimum(_SURPRISE, 0.5 * above**2)
        weights = np.exp(log - log.max())
        self._weights: NDArray[np.float64] = weights / weights.sum()

    def _drop(self, lr: float) -> NDArray[np.float64]:
        off = math.log2(lr) - self._middle - self._top
        return self._unit * np.minimum(1.0, np.where(off < 0, self._left, self._right) * off**2)

    def _heights(self, lr: float) -> NDArray[np.float64]:
        return self._height - self._drop(lr)

    def at(self, lr: float) -> Estimate:
        """Return what a training with this learning rate gives in the mean over seeds, and how sure that is."""
        heights = self._heights(lr)
        mean = float(self._weights @ heights)
        return Estimate(self._sign * mean, math.sqrt(self._weights @ ((heights - mean) ** 2 + self._variance)))

    def rank(self, lr: float) -> float:
        """Return the fitted mean such that more is better, whatever the rule."""
        return float(self._weights @ self._heights(lr))

    def chance_better(self, lr: float, than: float) -> float:
        """Return the probability that one learning rate is better than another, in the mean over seeds."""
        return float(self._weights[self._heights(lr) > self._heights(than)].sum())

    def chances_best(self, lrs: Sequence[float]) -> list[float]:
        """Return for each learning rate the probability that it is the best of them; equal ones share."""
        heights = np.stack([self._heights(lr) for lr in lrs], axis=1)
        is_best = heights == heights.max(axis=1, keepdims=True)
        shares: list[float] = (self._weights @ (is_best / is_best.sum(axis=1, keepdims=True))).tolist()
        return shares

    def gain(self, lr: float, over: float) -> float:
        """Return how much better than ``over`` a learning rate is expected to be, where it is better; at least 0."""
        return float(self._weights @ np.maximum(0.0, self._heights(lr) - self._heights(over)))

    def chance_beyond(self, lr: float) -> float:
        """Return the probability that the top is above this learning rate."""
        return float(self._weights[self._top > math.log2(lr) - self._middle].sum())
