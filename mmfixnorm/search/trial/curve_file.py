"""The validations of a training, as it makes them: ``curve.jsonl`` in the trial's folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

CURVE_FILE = 'curve.jsonl'


def read_curve(path: Path, *, up_to: float = math.inf) -> dict[int, float]:
    """The validations of all attempts so far, up to where training goes on; empty without the file."""
    curve: dict[int, float] = {}
    if not path.exists():
        return curve
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            step, value = json.loads(line)
        except ValueError:
            continue  # the line that was being written when an attempt was killed
        if step <= up_to:
            curve[step] = value
    return curve
