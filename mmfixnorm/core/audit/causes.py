"""Why a weight is not scale-invariant and what to do about it: the texts of the audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmfixnorm.core.audit.trace import Path

__all__ = [
    'BIAS',
    'INVARIANT',
    'STORED_STATISTICS',
    'STORED_STATISTICS_AND_BIAS',
    'UNEXPLAINED',
    'UNUSED',
    'Cause',
    'cause_on_path',
    'disagreement',
    'shared_weight',
]


class Cause(NamedTuple):
    """A cause as in :class:`~mmfixnorm.core.audit.WeightRecord`.

    Attributes:
        kind: Its name, for programs.
        reason: The same in words.
        advice: What to do; ``{name}`` stands for a regular expression that matches the weight.
    """

    kind: str
    reason: str
    advice: str


_LEAVE_OUT = "leave it out of the norm-fixing set (exclude=[r'{name}'])"
INVARIANT = Cause('invariant', 'its scale has no effect on the outputs', '')
UNEXPLAINED = Cause('no_norm', 'its scale has an effect on the outputs', f'WN, or {_LEAVE_OUT}')
UNUSED = Cause(
    'unused',
    'not reached: the outputs do not depend on it with this batch, so nothing could be measured',
    'nothing: a tensor without a gradient waits, and joins the set with the first step that moves it',
)
BIAS = Cause(
    'bias',
    'a bias in between: the norm layer that follows gets the scaled signal plus a constant, and through something '
    'that is not linear',
    'remove the bias (bias=False), or make the layer weight-normalised (WN)',
)
_HOLD_SCALE = "WN with its scale held (dict(type='WNConv2d', train_scale=False))"
STORED_STATISTICS = Cause(
    'stored_statistics',
    'the norm layer that follows runs on stored statistics, which is an affine map',
    f'{_HOLD_SCALE}, or train the norm layer on batch statistics (norm_eval=False, not frozen), or {_LEAVE_OUT}',
)
STORED_STATISTICS_AND_BIAS = Cause(
    'stored_statistics',
    'the norm layer that follows runs on stored statistics, and a bias is in between',
    f'{_HOLD_SCALE}, or train the norm layer on batch statistics and remove the bias, or {_LEAVE_OUT}',
)


def disagreement(identity: float, deviation: float) -> Cause:
    """Describe two measures that contradict each other."""
    return Cause(
        'disagreement',
        f'the two measures disagree: the identity says {identity:.1e}, and the outputs change by {deviation:.1e}; '
        'the function is not smooth here, or part of it has no gradient',
        _LEAVE_OUT,
    )


def shared_weight(invariant_uses: Sequence[str], other_uses: Sequence[str]) -> Cause:
    """Describe a shared tensor with a norm layer after one use and none after another."""
    return Cause(
        'shared',
        f'shared: it is scale-invariant as {", ".join(invariant_uses)} but not as {", ".join(other_uses)}',
        'add a norm layer after the other use too, or leave the tensor out of the set',
    )


def cause_on_path(path: Path) -> Cause:
    """Describe what a traced path shows about the scale of a weight."""
    at = ''
    if path.breaker is not None:
        at = f' ({path.breaker.name}{f" in {path.breaker.module}" if path.breaker.module else ""})'
    if path.absorbed:
        reason = 'reaches the loss by a second path: a norm layer takes its scale out on one path and not on another'
        return Cause('second_path', reason, f'WN, or {_LEAVE_OUT}')
    if path.breaker is not None and path.meets_norm and path.sums:
        reason = f'reaches the loss by a second path: it is added to a signal of fixed scale{at}, before any norm'
        return Cause('second_path', reason, f'WN, a norm layer before the sum, or {_LEAVE_OUT}')
    if path.breaker is not None and path.meets_norm:
        reason = f'something in between is not homogeneous{at}, so the norm layer that follows comes too late'
        return Cause('activation', reason, f'WN, or {_LEAVE_OUT}')
    if path.last_layer and path.classifies:
        return Cause(
            'no_norm', 'no norm layer follows: it feeds a softmax or sigmoid classifier', 'FixNorm (last layer)'
        )
    if path.last_layer and path.breaker is None:
        reason = 'no norm layer follows: its output is an output of the model'
        return Cause(
            'no_norm', reason, f'FixNorm if a softmax or sigmoid takes these outputs, else WN, or {_LEAVE_OUT}'
        )
    return Cause('no_norm', 'no norm layer follows', f'WN, or {_LEAVE_OUT}')
