"""The numbers that a search can tune, in one place: names, order, text and rounding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

#: Attributes of everything that stands for one training, in the order in which they are shown.
TUNED = ('lr', 'alpha', 'weight_decay')


class Point(Protocol):
    """What has the tuned numbers; None is left as it is in the config."""

    @property
    def lr(self) -> float:
        """Learning rate."""

    @property
    def alpha(self) -> float | None:
        """Bound of the FixNorm layer."""

    @property
    def weight_decay(self) -> float | None:
        """Weight decay."""


def values_of(point: Point) -> dict[str, float]:
    """The numbers of a point that are set, by name."""
    values = {name: getattr(point, name) for name in TUNED}
    return {name: value for name, value in values.items() if value is not None}


def title(name: str) -> str:
    """A name as people read it: ``weight decay``."""
    return name.replace('_', ' ')


def describe(point: Point | None) -> str:
    """A point as text, e.g. ``lr 0.5, alpha 4``; '' for None."""
    return ', '.join(f'{title(k)} {v:g}' for k, v in values_of(point).items()) if point else ''


def value_cells(point: Point, names: Iterable[str]) -> list[str]:
    """These numbers of a point as the cells of a table; one that is not set is empty."""
    values = values_of(point)
    return [f'{values[name]:g}' if name in values else '' for name in names]


def tidy(value: float, low: float, high: float) -> float:
    """Keep ten digits, so that 0.8 is 0.8 and not 0.8000000000000002, and stay in the range."""
    return min(max(float(f'{value:.10g}'), low), high)
