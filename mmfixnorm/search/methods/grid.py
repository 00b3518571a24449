"""Evenly spaced learning rates, and plain grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mmfixnorm.search.methods.base import Closed, Replay, Spec, edge_warnings, numbered, one_stage
from mmfixnorm.search.methods.values import tidy
from mmfixnorm.search.settings import GridSearch


def split(low: float, high: float, num: int, *, drop_low: bool) -> tuple[float, ...]:
    """Split ``[low, high]`` into ``num`` learning rates, evenly and without repetition.

    Round 0 of Algorithm 4 drops the lower end, later rounds keep both; only this reproduces the
    published values.
    """
    values = np.linspace(low, high, num + 1)[1:] if drop_low else np.linspace(low, high, num)
    rounded = [tidy(float(v), low, high) for v in values]
    rounded[-1] = high  # the ends are the caller's, to the last digit
    if not drop_low:
        rounded[0] = low
    return tuple(dict.fromkeys(rounded))


def _grid_specs(settings: GridSearch) -> list[Spec]:
    if settings.lrs is not None:
        lrs: tuple[float, ...] = settings.lrs
    elif settings.lr_range is not None:
        lrs = split(*settings.lr_range, settings.num_splits, drop_low=False)
    else:
        raise ValueError('a grid needs lrs or lr_range')
    points = [(lr, alpha) for lr in lrs for alpha in settings.alphas or (None,)]
    keys = numbered('grid', len(points))
    return [
        Spec(key, 'grid', lr, alpha, settings.schedule_fraction) for key, (lr, alpha) in zip(keys, points, strict=True)
    ]


def replay_grid(settings: GridSearch, closed: Mapping[str, Closed], asked: Mapping[str, Spec]) -> Replay:
    """Follow a grid: all of its points are known from the beginning."""
    del asked
    specs = _grid_specs(settings)
    replayed = one_stage('grid', specs, closed, settings.rule)
    if replayed.best is None:
        return replayed
    return replace(replayed, warnings=tuple(edge_warnings(replayed.best, (s.lr for s in specs))))


def outline_grid(settings: GridSearch) -> list[tuple[str, int, float]]:
    """Its one stage."""
    return [('grid', len(_grid_specs(settings)), settings.schedule_fraction)]
