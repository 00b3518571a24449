"""What stands in the cells of more than one table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.evidence import verdicts


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    if not values:
        return 'diverged'
    sd = f' (sd {statistics.stdev(values):.2f})' if len(values) > 1 else ''
    return f'{statistics.mean(values):.2f}{sd}'


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Mean of ``a`` less mean of ``b``, with its interval; nothing for a single training."""
    return '' if min(len(a), len(b)) < 2 else str(verdicts.difference(a, b))
