"""Runs by label: one method with one or several seeds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mmfixnorm.analysis.runs import Series, TrainingRun, read_run
from mmfixnorm.errors import ConfigError
from mmfixnorm.plot.chart import Line

Band = Literal['range', 'std']


class Group(NamedTuple):
    """The runs of one label."""

    label: str
    runs: list[TrainingRun]


class Curve(NamedTuple):
    """The mean of a group's runs at the positions that all of them have.

    Attributes:
        label: Label of the group.
        x: Positions in ascending order.
        mean: Mean over the runs.
        band: Lower and upper ends of their spread; None for a single run.
        last: Each run's value at the last position.
    """

    label: str
    x: list[float]
    mean: list[float]
    band: tuple[list[float], list[float]] | None
    last: list[float]

    def line(self, colour: int) -> Line:
        """Make the line of the curve in a chart."""
        return Line(self.label, self.x, self.mean, colour, self.band, markers=len(self.x) <= 40)

    def ending(self) -> str:
        """State the value at the end; with several runs, the mean and sample standard deviation."""
        if len(self.last) == 1:
            return f'{self.last[0]:.4g}'
        values = ', '.join(f'{value:.4g}' for value in self.last)
        return f'{np.mean(self.last):.4g} (standard deviation {np.std(self.last, ddof=1):.2g}; runs: {values})'


def read_groups(work_dirs: Sequence[str | os.PathLike[str]], labels: Sequence[str] | None = None) -> list[Group]:
    """Read work dirs and put those with the same label together, in the order in which labels first appear.

    Args:
        work_dirs: Of trainings.
        labels: One label for each work dir; by default the names of the folders.

    Raises:
        ConfigError: If labels and work dirs do not match, two folders have the same name and no label, a work dir is
            given twice, or the runs count in different units.
    """
    paths = [Path(work_dir) for work_dir in work_dirs]
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ConfigError(f'{twice[0]} is given twice; several runs of one label must be different trainings')
    if labels is None:
        labels = [path.resolve().name for path in paths]
        if len(set(labels)) < len(labels):
            raise ConfigError(
                f'several work dirs have the same name ({", ".join(labels)}): give --labels, one for each; runs with '
                'the same label are seeds of one method'
            )
    if len(labels) != len(paths):
        raise ConfigError(f'--labels: must be one for each of the {len(paths)} work dirs, got {len(labels)}')
    groups: dict[str, Group] = {}
    for path, label in zip(paths, labels, strict=True):
        groups.setdefault(label, Group(label, [])).runs.append(read_run(path))
    units = {run.unit for group in groups.values() for run in group.runs}
    if len(units) > 1:
        raise ConfigError('some runs count epochs and others iterations; draw them in separate figures')
    return list(groups.values())


def unit_title(groups: Sequence[Group]) -> str:
    """Choose the title of the x axis."""
    return 'epoch' if groups[0].runs[0].unit == 'epochs' else 'iteration'


def average(group: Group, read: Callable[[TrainingRun], Series], band: Band = 'range') -> Curve:
    """Compute the mean and spread of one series over a group's runs.

    Args:
        group (Group): The runs.
        read (Callable): Reads the series from a run.
        band (str): ``'range'``: from the smallest to the largest; ``'std'``: mean -+ sample standard deviation.

    Raises:
        ConfigError: If the runs have no position in common.
    """
    tables = [dict(zip(*read(run), strict=True)) for run in group.runs]
    x = sorted(set.intersection(*(set(table) for table in tables)))
    if not x:
        raise ConfigError(
            f'--labels: the runs of {group.label!r} have no position in common; runs of one label must have the same '
            'epochs and logging intervals'
        )
    values = np.array([[table[position] for position in x] for table in tables])
    mean = values.mean(axis=0)
    ends: tuple[list[float], list[float]] | None = None
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        low, high = (mean - spread, mean + spread) if band == 'std' else (values.min(axis=0), values.max(axis=0))
        ends = low.tolist(), high.tolist()
    return Curve(group.label, x, mean.tolist(), ends, values[:, -1].tolist())
