"""Measures which weights of a model are scale-invariant: ``f(cW) = f(W)`` in training, the precondition of norm fixing.

Nothing is concluded from names or types. Two independent measures must agree: the outputs with the weight multiplied
by several ``c``, and the identity ``<W, dL/dW> = 0``, which holds for every function of ``W / ||W||`` (Euler's
theorem for degree 0). Reasons are found by experiments as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmfixnorm.core.audit.probe import Probe, audited_weights, change, kept_random_state
from mmfixnorm.core.audit.trace import SCALE, Path, Trace, compare_traces
from mmfixnorm.core.norm_fixing import global_norm

__all__ = ['AuditReport', 'GroupRecord', 'WeightRecord', 'audit']

SCALES = (0.25, 0.5, 2.0, 4.0)
_IDENTITY = {torch.float64: 1e-4, torch.float32: 5e-2}
_CHANGE = {torch.float64: 1e-6, torch.float32: 2e-3}
# A relative change of the outputs that is no rounding any more, and an effect that is too small to be measured.
_VISIBLE = {torch.float64: 1e-9, torch.float32: 1e-4}
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
# What an epsilon may change, of the outputs and of the change by another direction of the weight.
_EPSILON = 0.02


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


def audit(
    model: nn.Module,
    inputs: Any,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    dtype: torch.dtype = torch.float64,
    scales: Sequence[float] = SCALES,
    seed: int = 0,
    explain: bool = True,
    find_groups: bool = True,
) -> AuditReport:
    """Measure the scale invariance of every weight of the convolutions, linear layers and attentions.

    All experiments are made on a copy of the model in ``dtype`` and in training mode; the model and the random
    states are as before, whatever happens. Modules that are in evaluation mode inside a model in training mode are
    left in it: so is a batch normalisation with ``norm_eval=True`` or one that was frozen by hand.

    The epsilon of a norm layer breaks the invariance a little. It is made small in the copy, so that the answer is
    about the structure; its effect is ``epsilon_effect`` of the report.

    Args:
        model (nn.Module): The model, without a wrapper of distributed training.
        inputs (Tensor | tuple | dict | Callable): What ``model(...)`` is called with; or a function that takes the
            model and returns the outputs that reach the loss, or the losses, in any nesting of dicts and sequences.
            It is called with the copy, many times.
        groups (Mapping[str, Sequence[str]], optional): Groups of weights to measure together: name of the group to
            names of the weights.
        dtype (torch.dtype): ``torch.float64``, or ``torch.float32`` for models that cannot run in it.
        scales (Sequence[float]): The factors ``c``. Defaults to ``(0.25, 0.5, 2, 4)``.
        seed (int): Of dropout, stochastic depth and all else that is drawn.
        explain (bool): Whether to find the reasons of failures. Defaults to True.
        find_groups (bool): Whether to look for tensors that fail alone and hold together, if ``explain``. Defaults
            to True.

    Returns:
        AuditReport: With ``weights``, a record per weight tensor.

    Raises:
        ValueError: If ``scales``, ``dtype`` or a name in ``groups`` do not fit.
        TypeError: If ``inputs`` is of an unknown kind, the model cannot be copied, or nothing has a gradient.
        RuntimeError: If a forward gives other outputs with the same seed, or nan.

    Example:
        >>> conv, norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        >>> model = torch.nn.Sequential(conv, norm, torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> report = audit(model, torch.randn(4, 3, 8, 8))
        >>> [(record.name, record.scale_invariant) for record in report.weights]
        [('0.weight', True), ('3.weight', False)]
    """
    _check(model, groups or {}, dtype, scales)
    with kept_random_state():
        experiment = _Experiment(Probe(model, inputs, dtype, seed), tuple(scales))
        experiment.measure()
        if explain:
            experiment.explain()
        found = [experiment.group(name, names) for name, names in (groups or {}).items()]
        found += experiment.find_groups() if explain and find_groups else []
        effect = experiment.probe.epsilon_effect([n for n, flat in experiment.invariant.items() if flat])
        return AuditReport(experiment.records(), tuple(found), str(dtype).removeprefix('torch.'), effect)


def _check(model: nn.Module, groups: Mapping[str, Sequence[str]], dtype: torch.dtype, scales: Sequence[float]) -> None:
    if dtype not in _IDENTITY:
        raise ValueError(f'dtype must be torch.float64 or torch.float32, got {dtype}')
    if not scales or not all(0 < c < math.inf and c != 1 for c in scales):
        raise ValueError(f'scales must be positive numbers other than 1, got {tuple(scales)}')
    known = audited_weights(model)
    names = {alias for aliases in known.values() for alias in aliases}
    for group, members in groups.items():
        if unknown := sorted(set(members) - names):
            raise ValueError(
                f'groups[{group!r}]: {unknown[:3]} are no weights of a convolution, linear layer or attention of the '
                f'model, which has {[*known][:3]}, ...'
            )


class _Experiment:
    """Measures and explains; the results are gathered by name of the weight."""

    def __init__(self, probe: Probe, scales: tuple[float, ...]) -> None:
        self.probe, self.scales = probe, scales
        self.names = list(probe.weights)
        self.identity: dict[str, float | None] = {}
        self.parts: dict[str, dict[str, bool]] = {}
        self.deviation: dict[str, float] = dict.fromkeys(self.names, 0.0)
        self.invariant: dict[str, bool] = {}
        self.causes: dict[str, tuple[str, str, str]] = {}
        self._steps: dict[str, tuple[int, Path]] = {}
        self._tracer = Trace(probe.model)

    # -- measuring ------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        tolerance = _IDENTITY[self.probe.dtype]
        first, second = self._identities(1), self._identities(2)
        self.identity = {n: None if first[n] is None else max(first[n], second[n] or 0.0) for n in self.names}  # type: ignore[type-var]
        flat = [n for n, value in self.identity.items() if value is not None and value <= tolerance]
        for name in self._not_flat_together(flat):
            self.causes[name] = ('disagreement', '', '')
        for name in self.names:
            if name in flat and name not in self.causes:
                self.invariant[name] = True
            else:
                self._measure_alone(name)

    def _identities(self, draw: int) -> dict[str, float | None]:
        gradients = self.probe.gradients(draw)
        return {n: None if g is None else self._identity(n, g) for n, g in gradients.items()}

    def _identity(self, name: str, gradient: Tensor) -> float | None:
        weight = self.probe.params[name].detach()
        size = global_norm([weight]).item() * global_norm([gradient]).item()
        # The outputs have norm 1 each in the combination: below this there is only rounding, and the epsilon.
        if size < 100 * _VISIBLE[self.probe.dtype]:
            return None
        if isinstance(owner := self.probe.model.get_submodule(name.rpartition('.')[0]), nn.MultiheadAttention):
            self._measure_parts(name, owner, weight, gradient)
        return abs(torch.dot(weight.flatten(), gradient.flatten()).item()) * math.sqrt(weight.numel()) / size

    def _measure_parts(self, name: str, owner: nn.MultiheadAttention, weight: Tensor, gradient: Tensor) -> None:
        if not name.endswith('in_proj_weight'):
            return
        for part, w, g in zip('qkv', weight.chunk(3), gradient.chunk(3), strict=True):
            z = (w * g).sum().abs() * math.sqrt(w.numel()) / (w.norm() * g.norm()).clamp(min=1e-30)
            self.parts.setdefault(name, {})[part] = z.item() <= _IDENTITY[self.probe.dtype]

    def _not_flat_together(self, names: Sequence[str]) -> list[str]:
        """Those of the weights that change the outputs after all, found by halving."""
        if not names:
            return []
        worst = 0.0
        for draw in range(2):
            generator = torch.Generator().manual_seed(draw)
            picks = torch.randint(len(self.scales), (len(names),), generator=generator).tolist()
            worst = max(worst, self.probe.change_with({n: self.scales[i] for n, i in zip(names, picks, strict=True)}))
        if worst <= _CHANGE[self.probe.dtype]:
            self.deviation.update({n: max(self.deviation[n], worst) for n in names})
            return []
        if len(names) == 1:
            return list(names)
        half = len(names) // 2
        return self._not_flat_together(names[:half]) + self._not_flat_together(names[half:])

    def _measure_alone(self, name: str) -> None:
        dtype, identity = self.probe.dtype, self.identity[name]
        scales = self.scales if identity is None or name in self.causes else self.scales[2:3] or self.scales[:1]
        deviation = max(self.probe.change_with({name: c}) for c in scales)
        self.deviation[name] = deviation
        if identity is None:
            self.invariant[name] = deviation <= _CHANGE[dtype]
            if self.invariant[name] and self.probe.change_by_noise(name) <= _CHANGE[dtype]:
                self.causes[name] = _UNUSED
        elif self._only_epsilon(name, deviation):
            self.invariant[name] = True
            self.causes.pop(name, None)
        else:
            self.invariant[name] = False
            if identity <= _IDENTITY[dtype] or deviation <= _VISIBLE[dtype]:
                self.causes[name] = _disagreement(identity, deviation)

    def _only_epsilon(self, name: str, deviation: float) -> bool:
        """Whether what is left is an epsilon that no attribute of a module holds.

        Its effect fades with the square of c, so each step from c to 4c changes the outputs by a sixteenth of what
        the step before did; and it is small against that of another direction of the weight. A small effect alone is
        no sign: at its start the loss of a deep network hardly depends on any one weight.
        """
        if deviation > _EPSILON:
            return False
        before, last = self.probe.base, math.inf
        for c in (4.0, 16.0, 64.0, 256.0, 1024.0):
            outputs = self.probe.outputs_with({name: c})
            step = change(outputs, before)
            if c > 4 and step > _ROUNDING[self.probe.dtype] and not 1 / 20 <= step / last <= 1 / 12:
                return False
            before, last = outputs, step
        return deviation <= _EPSILON * self.probe.change_by_noise(name)

    # -- explaining -----------------------------------------------------------------------------------------------

    def explain(self) -> None:
        """Find the causes of failures, those that explain many tensors at once first."""
        self._explain_shared()
        self._explain_by(['batch_statistics'], lambda n: _STORED)
        self._explain_by(['without_biases'], self._bias_text)
        self._explain_by(['batch_statistics', 'without_biases'], lambda n: _STORED_AND_BIAS)
        self._trace(self._open())
        for name in self._open():
            self.causes[name] = _from_path(self._steps[name][1])

    def _open(self) -> list[str]:
        return [name for name in self.names if not self.invariant[name] and name not in self.causes]

    def _explain_by(self, interventions: Sequence[str], text: Callable[[str], tuple[str, str, str]]) -> None:
        """What becomes invariant under an intervention failed for what the intervention took away."""
        names = self._open()
        if not names:
            return
        with ExitStack() as stack:
            for intervention in interventions:
                stack.enter_context(getattr(self.probe, intervention)())
            gradients = self.probe.gradients(1)
        flat = [n for n in names if (g := gradients[n]) is not None and self._flat(n, g)]
        self.causes.update({name: text(name) for name in flat})

    def _flat(self, name: str, gradient: Tensor) -> bool:
        identity = self._identity(name, gradient)
        return identity is not None and identity <= _IDENTITY[self.probe.dtype]

    def _bias_text(self, name: str) -> tuple[str, str, str]:
        return (
            'bias',
            'a bias in between: the norm that follows sees the scaled weight plus a constant, through something that '
            'is not linear',
            'take the bias away (bias=False), or make the layer weight-normalised (WN)',
        )

    def _explain_shared(self) -> None:
        for name in self._open():
            if len(self.probe.weights[name]) == 1:
                continue
            with self.probe.untied(name) as uses:
                gradients = self.probe.gradients(1)
                flat = {use: (g := gradients[use]) is not None and self._flat(use, g) for use in uses}
            if any(flat.values()):
                bad, good = ([use for use in uses if flat[use] is kind] for kind in (False, True))
                self.causes[name] = (
                    'shared',
                    f'shared: it is scale-invariant as {", ".join(good)} but not as {", ".join(bad)}',
                    'follow the other use by a norm layer as well, or leave the tensor out of the set',
                )

    def _trace(self, names: Sequence[str]) -> None:
        if not names:
            return
        with self.probe.batch_statistics(), self.probe.without_biases():
            base = self._operations()
            for name in names:
                self._steps[name] = self._path([name], base)

    def _operations(self) -> list[Any]:
        with self._tracer.recording() as operations:
            self.probe.outputs()
        return operations

    def _path(self, names: Sequence[str], base: list[Any]) -> tuple[int, Path]:
        with self.probe.scaled(dict.fromkeys(names, SCALE)):
            path = compare_traces(base, self._operations(), self.probe.dtype)
        return path.index, path

    # -- groups ---------------------------------------------------------------------------------------------------

    def group(self, label: str, members: Sequence[str]) -> GroupRecord:
        """Measure weights multiplied by one factor."""
        primary = {alias: name for name, aliases in self.probe.weights.items() for alias in aliases}
        names = list(dict.fromkeys(primary[member] for member in members))
        deviation = max(
            (self.probe.change_with(dict.fromkeys(names, c)) for c in (min(self.scales), max(self.scales))), default=0.0
        )
        failing = tuple(name for name in names if not self.invariant[name])
        return GroupRecord(label, tuple(names), deviation <= _CHANGE[self.probe.dtype], deviation, failing)

    def find_groups(self) -> list[GroupRecord]:
        """Tensors that fail alone and hold together: those whose signals are added before a norm."""
        failing = [name for name in self.names if not self.invariant[name]]
        found: list[GroupRecord] = []
        taken: set[str] = set()
        for seed in failing:
            if seed in taken or seed not in self._steps or not self._steps[seed][1].sums:
                continue
            names = self._grow([seed], [n for n in failing if n in self._steps and n not in taken])
            if len(names) > 1 and (record := self.group(f'found {len(found) + 1}', names)).scale_invariant:
                found.append(record)
                taken.update(names)
        return found

    def _grow(self, names: list[str], candidates: Sequence[str]) -> list[str]:
        """Add the tensors that meet the group's signal in a sum, until the whole passes or none is left."""
        with self.probe.batch_statistics(), self.probe.without_biases():
            base = self._operations()
            index, path = self._steps[names[0]]
            while path.breaker is not None and path.sums:
                more = [n for n in candidates if n not in names and self._steps[n][0] == index]
                if not more:
                    break
                names = names + more
                index, path = self._path(names, base)
        return names

    # -- result ---------------------------------------------------------------------------------------------------

    def records(self) -> tuple[WeightRecord, ...]:
        return tuple(self._record(name) for name in self.names)

    def _record(self, name: str) -> WeightRecord:
        cause, reason, advice = self.causes.get(name) or (_INVARIANT if self.invariant[name] else _UNEXPLAINED)
        if '{name}' in advice:
            advice = advice.format(name=f'^{re.escape(name)}$')
        frozen = name in self.probe.frozen
        if frozen:
            note = 'frozen (requires_grad=False), so it is in no norm-fixing set'
            reason, advice = (note, '') if cause == 'invariant' else (f'{note}; {reason}', '')
            cause = 'frozen' if cause == 'invariant' else cause
        also = tuple(alias for alias in self.probe.weights[name] if alias != name)
        if also and cause not in ('invariant', 'shared'):
            reason += f'; shared with {", ".join(also)}'
        return WeightRecord(
            name=name,
            scale_invariant=self.invariant[name],
            cause=cause,
            reason=reason,
            advice=advice,
            identity=self.identity[name],
            deviation=self.deviation[name],
            trainable=not frozen,
            also=also,
            parts=self.parts.get(name, {}),
        )


_OUT = "leave it out of the norm-fixing set (exclude=[r'{name}'])"
_INVARIANT = ('invariant', 'its scale has no effect on the outputs', '')
_UNEXPLAINED = ('no_norm', 'its scale has an effect on the outputs', f'WN, or {_OUT}')
_UNUSED = (
    'unused',
    'not reached: the outputs do not depend on it with this batch, so nothing could be measured',
    'nothing: a tensor without a gradient leaves the set at the first step',
)
_STORED = (
    'stored_statistics',
    'the norm layer that follows runs on stored statistics, which is an affine map',
    f'train the norm layer on batch statistics (norm_eval=False, not frozen), or WN, or {_OUT}',
)
_STORED_AND_BIAS = (
    'stored_statistics',
    'the norm layer that follows runs on stored statistics, and there is a bias in between',
    f'train the norm layer on batch statistics and take the bias away, or WN, or {_OUT}',
)


def _disagreement(identity: float, deviation: float) -> tuple[str, str, str]:
    return (
        'disagreement',
        f'the two measures disagree: the identity says {identity:.1e}, and the outputs change by {deviation:.1e}; '
        'the function is not smooth here, or part of it has no gradient',
        _OUT,
    )


def _from_path(path: Path) -> tuple[str, str, str]:
    """Cause, reason and advice from what became of the scale."""
    at = ''
    if path.breaker is not None:
        at = f' ({path.breaker.name}{f" in {path.breaker.module}" if path.breaker.module else ""})'
    if path.absorbed:
        reason = 'reaches the loss by a second path: a norm layer takes its scale out on one path and not on another'
        return 'second_path', reason, f'WN, or {_OUT}'
    if path.breaker is not None and path.meets_norm and path.sums:
        reason = f'reaches the loss by a second path: it is added to what does not scale with it{at}, before any norm'
        return 'second_path', reason, f'WN, a norm layer before the sum, or {_OUT}'
    if path.breaker is not None and path.meets_norm:
        reason = f'something in between is not homogeneous{at}, so the norm that follows comes too late'
        return 'activation', reason, f'WN, or {_OUT}'
    if path.last_layer and path.classifies:
        return 'no_norm', 'no norm layer follows: it feeds a softmax or sigmoid classifier', 'FixNorm (last layer)'
    if path.last_layer and path.breaker is None:
        reason = 'no norm layer follows: its output is an output of the model'
        return 'no_norm', reason, f'FixNorm if a softmax or sigmoid takes these outputs, else WN, or {_OUT}'
    return 'no_norm', 'no norm layer follows', f'WN, or {_OUT}'
