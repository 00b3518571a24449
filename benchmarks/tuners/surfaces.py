"""Tables of real trainings, to look up what a training would give.

A table is a JSON file in ``tables``::

    {"name": ..., "metric": ..., "rule": "greater", "lengths": [0.2, 1.0], "provenance": {...},
     "alpha": {"lrs": [...], "alphas": [...]}, "weight_decay": {"lrs": [...], "weight_decays": [...]},
     "runs": [{"kind": "alpha", "lr": ..., "alpha": ..., "fraction": ..., "seed": ..., "value": ...}, ...]}

``value`` is null for a training that diverged. A seed of which a training is missing is left out: the
table is still being made.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

KINDS = ('alpha', 'weight_decay')


@dataclass(frozen=True)
class Surface:
    """The trainings of one kind: lr and alpha with FixNorm, or lr and weight decay without.

    Attributes:
        lrs: Learning rates, rising.
        others: Alphas or weight decays, rising.
        values: By length, shape ``(seeds, lrs, others)``; NaN for a training that diverged.
    """

    lrs: tuple[float, ...]
    others: tuple[float, ...]
    values: dict[float, np.ndarray]

    @property
    def num_seeds(self) -> int:
        """Trainings of each point and length."""
        return len(next(iter(self.values.values())))

    def answer(self, lr: float, other: float, fraction: float, seed: int) -> float | None:
        """What the training with this number of seed gave; None if it diverged."""
        return _interpolated(self, self.values[fraction][seed], lr, other)

    def mean(self, lr: float, other: float, rule: str) -> float:
        """Mean over the seeds at full length; one that diverged counts as the surface's worst value."""
        full = self.values[max(self.values)]
        worst = float(np.nanmin(full) if rule == 'greater' else np.nanmax(full))
        found = [self.answer(lr, other, max(self.values), seed) for seed in range(self.num_seeds)]
        return float(np.mean([worst if v is None else v for v in found]))

    def best(self, rule: str) -> tuple[float, float, float]:
        """``(mean, lr, other)`` of the point with the best mean at full length; diverged ones do not count."""
        means = self.values[max(self.values)].mean(axis=0)  # NaN where a seed diverged
        i = int(np.nanargmax(means) if rule == 'greater' else np.nanargmin(means))
        row, column = divmod(i, len(self.others))
        return float(means[row, column]), self.lrs[row], self.others[column]


@dataclass(frozen=True)
class Table:
    """One task: its surfaces by kind, and where its numbers come from."""

    name: str
    metric: str
    rule: str
    lengths: tuple[float, ...]
    surfaces: dict[str, Surface]
    provenance: dict = field(default_factory=dict)

    def best(self) -> float:
        """The best mean of all kinds at full length."""
        pick = max if self.rule == 'greater' else min
        return pick(surface.best(self.rule)[0] for surface in self.surfaces.values())


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        ValueError: No seed has all of its trainings, or a training is there twice.
    """
    data = json.loads(path.read_text())
    lengths = tuple(sorted(data['lengths']))
    surfaces = {kind: _surface(data, kind, lengths, path) for kind in KINDS if kind in data}
    return Table(data['name'], data['metric'], data['rule'], lengths, surfaces, data.get('provenance', {}))


def _surface(data: dict, kind: str, lengths: tuple[float, ...], path: Path) -> Surface:
    axes = data[kind]
    lrs, others = sorted(axes['lrs']), sorted(axes[f'{kind}s'])
    found: dict[tuple, float] = {}
    for run in data['runs']:
        if run['kind'] == kind:
            key = (run['fraction'], run['seed'], run['lr'], run[kind])
            if key in found:
                raise ValueError(f'{path}: {kind}: two trainings with (length, seed, lr, {kind}) = {key}')
            found[key] = math.nan if run['value'] is None else run['value']
    points = [(lr, other) for lr in lrs for other in others]
    seeds = sorted({seed for _, seed, *_ in found})
    whole = [s for s in seeds if all((length, s, *point) in found for length in lengths for point in points)]
    if not whole:
        raise ValueError(f'{path}: {kind}: no seed with all of its trainings (seeds: {seeds})')
    shape = (len(whole), len(lrs), len(others))
    values = {
        length: np.array([found[length, seed, lr, other] for seed in whole for lr, other in points]).reshape(shape)
        for length in lengths
    }
    return Surface(tuple(lrs), tuple(others), values)


def _interpolated(surface: Surface, values: np.ndarray, lr: float, other: float) -> float | None:
    """Bilinear in the logs; the nearest corner's value in a cell with a diverged corner."""
    i, u = _cell(surface.lrs, lr)
    j, v = _cell(surface.others, other)
    rows, columns = (i, min(i + 1, len(surface.lrs) - 1)), (j, min(j + 1, len(surface.others) - 1))
    corners = values[np.ix_(rows, columns)]
    weights = np.outer([1 - u, u], [1 - v, v])
    if np.isnan(corners[weights > 0]).any():
        value = float(corners[round(u), round(v)])
    else:
        value = float((weights * np.nan_to_num(corners)).sum())
    return None if math.isnan(value) else value


def _cell(axis: tuple[float, ...], value: float) -> tuple[int, float]:
    """Index of the cell and the place in it, from 0 to 1, on a log scale."""
    if not axis[0] <= value <= axis[-1]:
        raise ValueError(f'{value:g} is outside the table ({axis[0]:g} to {axis[-1]:g})')
    i = min(max(int(np.searchsorted(axis, value, side='right')) - 1, 0), max(len(axis) - 2, 0))
    if len(axis) == 1:
        return 0, 0.0
    return i, math.log(value / axis[i]) / math.log(axis[i + 1] / axis[i])
