"""What an audit returns: a record for each weight and for each group of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ['AuditReport', 'GroupRecord', 'WeightRecord']


@dataclass(frozen=True)
class WeightRecord:
    """What was measured for one weight tensor.

    Attributes:
        name: As in ``named_parameters()``.
        scale_invariant: Whether ``f(cW) = f(W)``, with everything else as it is.
        cause: ``'invariant'``, or why not: ``'no_norm'``, ``'stored_statistics'``, ``'bias'``, ``'second_path'``,
            ``'activation'``, ``'shared'``, ``'disagreement'``; ``'unused'`` and ``'frozen'`` for tensors that are in
            no norm-fixing set whatever was measured.
        reason: The same in words, with the layers concerned.
        advice: What to do; empty if there is nothing to do.
        identity: ``|<W, dL/dW>| * sqrt(n) / (||W|| ||dL/dW||)``: of order 1 for a weight like any other, 0 for a
            scale-invariant one; None without a gradient.
        deviation: Largest relative change of an output over the scales ``c`` that were tried.
        trainable: ``requires_grad``.
        also: Other names of a shared tensor.
        parts: For the joint input weight of an attention: whether its ``q``, ``k`` and ``v`` are scale-invariant.
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
    parts: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupRecord:
    """What was measured for several tensors multiplied by the same ``c``, as norm fixing does with its set.

    Attributes:
        name: What the group was called, or ``'found ...'`` for those that the audit found.
        weights: Names of its tensors.
        scale_invariant: Whether the outputs stay the same.
        deviation: Largest relative change of an output over the scales that were tried.
        failing: Those of the weights that are not scale-invariant by themselves.
    """

    name: str
    weights: tuple[str, ...]
    scale_invariant: bool
    deviation: float
    failing: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """What :func:`audit` found.

    Attributes:
        weights: One record per weight tensor, in the order of ``named_parameters()``.
        groups: The groups asked for, then those found: tensors that fail alone and hold together.
        dtype: What was computed in.
        epsilon_effect: Largest relative change of an output when the weights that are scale-invariant become twice
            as large with the epsilons of the norm layers as they are. The audit itself makes them small.
    """

    weights: tuple[WeightRecord, ...]
    groups: tuple[GroupRecord, ...]
    dtype: str
    epsilon_effect: float

    def __getitem__(self, name: str) -> WeightRecord:
        return next(record for record in self.weights if name in (record.name, *record.also))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
