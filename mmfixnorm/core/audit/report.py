"""The result of an audit: a record for each weight and for each group of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ['AuditReport', 'GroupRecord', 'WeightRecord']


@dataclass(frozen=True)
class WeightRecord:
    """The measurements of one weight tensor.

    Attributes:
        name: As in ``named_parameters()``.
        scale_invariant: Whether ``f(cW) = f(W)``, with everything else as it is.
        cause: ``'invariant'``, or the reason why it is not: ``'no_norm'``, ``'stored_statistics'``, ``'bias'``,
            ``'second_path'``, ``'activation'``, ``'shared'``, ``'disagreement'``; ``'unused'`` for tensors that could
            not be measured, and ``'frozen'`` for scale-invariant ones that are frozen: both join the norm-fixing set
            with the first step that moves them.
        reason: The cause in words, with the layers concerned.
        advice: How to fix it; empty if there is nothing to do.
        identity: ``|<W, dL/dW>| * sqrt(n) / (||W|| ||dL/dW||)``: of order 1 in general, 0 for a
            scale-invariant weight; None without a gradient.
        deviation: Largest relative change of an output over all scales ``c``; nan where a brief audit has not
            measured it.
        trainable: ``requires_grad``.
        also: Other names of a shared tensor.
        feeds_classifier: Whether it reaches a softmax or sigmoid, measured of weights that are not scale-invariant.
        called: Whether the layer was called, or else something used its weight, as some attentions do.
        parts: For the joint input weight of an attention: whether ``q``, ``k`` and ``v`` are scale-invariant.
    """

    name: str
    scale_invariant: bool
    cause: str
    reason: str
    advice: str
    identity: float | None
    deviation: float
    trainable: bool
    also: tuple[str, ...] = ()
    feeds_classifier: bool = False
    called: bool = True
    parts: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupRecord:
    """The measurements of several tensors multiplied by the same ``c``, as norm fixing does with its set.

    Attributes:
        name: Name given by the caller, or ``'found ...'`` for groups that the audit found.
        weights: Names of its tensors.
        scale_invariant: Whether the outputs stay the same.
        deviation: Largest relative change of an output over the smallest and the largest scale.
        failing: The weights of the group that are not scale-invariant by themselves.
    """

    name: str
    weights: tuple[str, ...]
    scale_invariant: bool
    deviation: float
    failing: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """The result of :func:`audit`.

    Attributes:
        weights: One record per weight tensor, in the order of ``named_parameters()``.
        groups: The groups of the caller, then those that the audit found: tensors that fail alone and hold together.
        dtype: The dtype of the computation.
        epsilon_effect: Largest relative change of an output when all scale-invariant weights are doubled and the
            norm layers have their real epsilons, which the audit itself makes small; None if it was not measured.
    """

    weights: tuple[WeightRecord, ...]
    groups: tuple[GroupRecord, ...]
    dtype: str
    epsilon_effect: float | None

    def __getitem__(self, name: str) -> WeightRecord:
        for record in self.weights:
            if name in (record.name, *record.also):
                return record
        raise KeyError(f'no weight {name!r} was audited; there are {", ".join(record.name for record in self.weights)}')

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to plain data, for JSON."""
        return asdict(self)
