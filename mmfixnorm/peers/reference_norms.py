"""Reads the norms that WeightNormLoggerHook has recorded in a work dir."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from mmfixnorm.errors import ConfigError

__all__ = ['NormCurve', 'read_norm_curves']

_PREFIX = 'weight_norm/'


class NormCurve:
    """The norm of one weight after a number of iterations, linear between recordings.

    Args:
        recorded (dict[int, float]): Number of iterations to norm.
    """

    def __init__(self, recorded: dict[int, float]) -> None:
        self.steps = np.array(sorted(recorded), dtype=float)
        self.norms = np.array([recorded[int(step)] for step in self.steps])

    @property
    def last_step(self) -> int:
        """The last recording, in iterations."""
        return int(self.steps[-1])

    def at(self, step: int, start: float, begin: int = 0) -> float:
        """Interpolate the norm after ``step`` iterations, with ``start`` after the first ``begin`` of them."""
        later = self.steps > begin
        return float(np.interp(step, np.r_[float(begin), self.steps[later]], np.r_[start, self.norms[later]]))


def read_norm_curves(work_dir: str) -> dict[str, NormCurve]:
    """Read the norms of each weight from the files that ``LocalVisBackend`` writes.

    A later start in the same work dir replaces the recordings from its first one on: a resumed run continues the curve,
    a new run replaces it.

    Args:
        work_dir (str): Work dir of a run with ``WeightNormLoggerHook(per_layer=True)``.

    Returns:
        dict[str, NormCurve]: The curve of each parameter, by name.

    Raises:
        ConfigError: If there are no recordings, or one is not a number > 0.
    """
    recorded: dict[str, dict[int, float]] = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):  # folders are named after their starting time
        new = _read(path)
        if new:
            first = min(step for norms in new.values() for step in norms)
            recorded = {name: {s: n for s, n in norms.items() if s < first} for name, norms in recorded.items()}
            for name, norms in new.items():
                recorded.setdefault(name, {}).update(norms)
    if not recorded:
        raise ConfigError(
            f'LRCorrectionHook.reference: no norms of single weights in {work_dir!r}/*/vis_data/scalars.json; record '
            "them in the run with weight decay by dict(type='WeightNormLoggerHook', interval=1, per_layer=True)"
        )
    return {name: NormCurve(norms) for name, norms in recorded.items() if norms}


def _read(path: Path) -> dict[str, dict[int, float]]:
    recorded: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            scalars = json.loads(line)
        except json.JSONDecodeError as err:
            raise ConfigError(f'LRCorrectionHook.reference: {path}, line {number} is not JSON: {err}') from err
        for key, norm in scalars.items():
            if key.startswith(_PREFIX):
                if not (math.isfinite(norm) and norm > 0):
                    raise ConfigError(f'LRCorrectionHook.reference: {path}, line {number}: {key} is {norm}')
                recorded.setdefault(key.removeprefix(_PREFIX), {})[int(scalars['step'])] = norm
    return recorded
