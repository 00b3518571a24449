"""Measures which weights of a model are scale-invariant: ``f(cW) = f(W)`` in training, the precondition of norm fixing.

The audit draws no conclusions from names or types. Two independent measures must agree: the outputs with the weight
multiplied by several ``c``, and the identity ``<W, dL/dW> = 0``, which holds for every function of ``W / ||W||``
(Euler's theorem for degree 0). Experiments find the reasons too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mmfixnorm.core.audit.causes import (
    BIAS,
    INVARIANT,
    STORED_STATISTICS,
    STORED_STATISTICS_AND_BIAS,
    UNEXPLAINED,
    UNUSED,
    Cause,
    cause_on_path,
    disagreement,
    shared_weight,
)
from mmfixnorm.core.audit.probe import Probe, audited_weights, change, preserve_random_state
from mmfixnorm.core.audit.report import AuditReport, GroupRecord, WeightRecord
from mmfixnorm.core.audit.trace import SCALE, Path, Trace, compare_traces
from mmfixnorm.core.norms import global_norm

__all__ = ['audit']

SCALES = (0.25, 0.5, 2.0, 4.0)
_IDENTITY = {torch.float64: 1e-4, torch.float32: 5e-2}
_CHANGE = {torch.float64: 1e-6, torch.float32: 2e-3}
# Relative changes of the outputs: above the first an effect is visible, below the second it is rounding.
_VISIBLE = {torch.float64: 1e-9, torch.float32: 1e-4}
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
# An identity that no epsilon brings about.
_CLEAR = 0.05
# The largest change that an epsilon may cause, relative to the outputs and to the change by a random step.
_EPSILON = 0.02


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
    follow: Collection[str] | None = None,
    brief: bool = False,
    light: Sequence[Any] = (),
    quick: Sequence[Any] = (),
    progress: Callable[[str], None] | None = None,
) -> AuditReport:
    """Measure the scale invariance of every weight of the convolutions, linear layers and attentions.

    The experiments run on a copy of the model in ``dtype`` and in training mode; the model and the random states are
    left unchanged, also after an error. Modules in evaluation mode inside a model in training mode stay in it, such as
    a batch normalisation with ``norm_eval=True`` or one that was frozen by hand.

    The epsilon of a norm layer breaks the invariance slightly. The copy has small epsilons, so that the result is about
    the structure of the model; ``epsilon_effect`` of the report is the effect of the real ones.

    Args:
        model (nn.Module): The model, without a wrapper of distributed training.
        inputs (Tensor | tuple | dict | Callable): The arguments of ``model(...)``; or a function that takes the model
            and returns the outputs that reach the loss, or the losses, in any nesting of dicts and sequences. The
            audit calls it with the copy, many times.
        groups (Mapping[str, Sequence[str]], optional): Groups of weights to measure together: name of the group to
            names of the weights.
        dtype (torch.dtype): ``torch.float64``, or ``torch.float32`` for models that cannot run in float64.
        scales (Sequence[float]): The factors ``c``. Defaults to ``(0.25, 0.5, 2, 4)``.
        seed (int): Seed of dropout, stochastic depth and all other random numbers.
        explain (bool): Whether to find the reasons for failures. Defaults to True.
        find_groups (bool): Whether to look for tensors that fail alone and hold together, if ``explain``. Defaults
            to True.
        follow (Collection[str], optional): The weights to follow through the forward, if ``explain``, one forward for
            each. Defaults to None: all that fail for no other reason.
        brief (bool): Whether to leave out what decides little: the effect of the norm layers' epsilons, a forward for
            each weight whose identity fails clearly, and, unless ``explain``, which weights are not used. Then a layer
            that detaches the norm it divides by, so that its gradient is not the derivative, counts as not
            scale-invariant. Defaults to False.
        light (Sequence): Smaller inputs, each of the same kind as ``inputs``. That a failing weight has an effect, and
            why, is then measured with the first of these that the model can take, in a fraction of the time; that a
            weight has none is always measured with ``inputs``.
        quick (Sequence): Inputs for forwards in float32, with ``dtype`` float64. That a weight has an effect is then
            measured with the first of these, or with ``inputs``, that the model can take.
        progress (Callable, optional): Is called with a few words on what is measured next.

    Returns:
        AuditReport: With ``weights``, a record per weight tensor.

    Raises:
        ValueError: If ``scales``, ``dtype`` or a name in ``groups`` do not fit.
        TypeError: If ``inputs``, ``light`` or ``quick`` is of an unknown kind, the model cannot be copied, or no output
            has a gradient.
        RuntimeError: If a forward gives different outputs with the same seed, or nan.

    Example:
        >>> conv, norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        >>> model = torch.nn.Sequential(conv, norm, torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> report = audit(model, torch.randn(4, 3, 8, 8))
        >>> [(record.name, record.scale_invariant) for record in report.weights]
        [('0.weight', True), ('3.weight', False)]
    """
    _check(model, groups or {}, dtype, scales)
    _check_lists(light=light, quick=quick)
    with preserve_random_state():
        say = progress or (lambda text: None)
        say('first forward and gradients')
        probe = Probe(model, inputs, dtype, seed, light)
        in_single = partial(_quick, model, (*quick, inputs), seed) if quick else _no_probe
        experiment = _Experiment(probe, in_single if dtype == torch.float64 else _no_probe, tuple(scales), say)
        experiment.measure(brief=brief, find_unused=explain or not brief)
        if explain:
            experiment.explain(follow)
        say('groups of weights')
        records = [experiment.group(name, names) for name, names in (groups or {}).items()]
        records += experiment.find_groups() if explain and find_groups else []
        flat = [name for name, holds in experiment.invariant.items() if holds]
        effect = None if brief else experiment.probe.epsilon_effect(flat)
        return AuditReport(experiment.records(), tuple(records), str(dtype).removeprefix('torch.'), effect)


def _quick(model: nn.Module, inputs: Sequence[Any], seed: int) -> Probe | None:
    for own in inputs:
        with suppress(Exception):  # too small for this model, or it cannot run in float32: the others do the same
            return Probe(model, own, torch.float32, seed)
    return None


def _no_probe() -> None:
    return None


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
                f'groups[{group!r}]: {unknown[:3]} are not weights of a convolution, linear layer or attention of '
                f'the model, which has {[*known][:3]}, ...'
            )


def _check_lists(**inputs: Any) -> None:
    for name, value in inputs.items():
        if not isinstance(value, (list, tuple)):
            raise TypeError(f'{name} must be a list of inputs, such as [tensor], got {type(value).__name__}')


class _Experiment:
    """Measures the weights of a probe and explains failures; results are keyed by the name of the weight."""

    def __init__(
        self,
        probe: Probe,
        quick: Callable[[], Probe | None],
        scales: tuple[float, ...],
        say: Callable[[str], None],
    ) -> None:
        self.probe, self.scales, self.say = probe, scales, say
        self.quick = cache(quick)
        self.names = list(probe.weights)
        self.identity: dict[str, float | None] = {}
        self.parts: dict[str, dict[str, bool]] = {}
        self.deviation: dict[str, float] = dict.fromkeys(self.names, 0.0)
        self.invariant: dict[str, bool] = {}
        self.causes: dict[str, Cause] = {}
        self._steps: dict[str, tuple[int, Path]] = {}
        self._tracer = Trace(probe.model)

    # -- measuring ------------------------------------------------------------------------------------------------

    def measure(self, *, brief: bool, find_unused: bool) -> None:
        tolerance = _IDENTITY[self.probe.dtype]
        self.identity = self._identities(self.probe.base_gradients)
        self.probe.base_gradients.clear()  # as large as the model
        flat = [n for n, value in self.identity.items() if value is not None and value <= tolerance]
        self.say(f'{len(flat)} weights together')
        if suspects := self._not_flat_together(flat):
            again = self._identities(self.probe.gradients(2))  # one combination of the outputs may be flat by chance
            for name in suspects:
                self.identity[name] = max(self.identity[name] or 0.0, again[name] or 0.0)
                self.causes[name] = Cause('disagreement', '', '')
        alone = [name for name in self.names if name not in flat or name in self.causes]
        self.invariant = {name: True for name in self.names if name not in alone}
        if brief:
            clear = {name for name in alone if (self.identity[name] or 0.0) > _CLEAR and name not in self.causes}
            self.invariant.update(dict.fromkeys(clear, False))
            self.deviation.update(dict.fromkeys(clear, math.nan))
            alone = [name for name in alone if name not in clear]
        unreached = [name for name in alone if self.identity[name] is None and name not in self.causes]
        alone = [name for name in alone if name not in unreached]
        for i, name in enumerate(alone):
            self.say(f'weight {i + 1} of {len(alone)} alone')
            if not self._has_effect_lightly(name):
                self._measure_alone(name)
        self._measure_unreached(unreached, find_unused=find_unused)

    def _identities(self, gradients: Mapping[str, Tensor | None]) -> dict[str, float | None]:
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
        """Find the weights that may change the outputs, with light inputs first, of many that do so together."""
        if self._worst_together(names) <= _CHANGE[self.probe.dtype]:
            return []
        with self.probe.lightly() as light:
            found = self._by_halving(names) if light else []
        # With few boxes a matching may flip for others too, so the usual inputs have the last word.
        return self._by_halving(found) + self._by_halving([name for name in names if name not in found])

    def _worst_together(self, names: Sequence[str]) -> float:
        """Measure the largest change of the outputs by weights that are multiplied by different factors."""
        worst = 0.0
        for draw in range(2 if names else 0):
            generator = torch.Generator().manual_seed(draw)
            picks = torch.randint(len(self.scales), (len(names),), generator=generator).tolist()
            worst = max(worst, self.probe.change_with({n: self.scales[i] for n, i in zip(names, picks, strict=True)}))
        if worst <= _CHANGE[self.probe.dtype]:
            self.deviation.update({n: max(self.deviation[n], worst) for n in names})
        return worst

    def _by_halving(self, names: Sequence[str]) -> list[str]:
        if self._worst_together(names) <= _CHANGE[self.probe.dtype]:
            return []
        if len(names) <= 2:  # at least one, and each is measured alone next
            return list(names)
        half = len(names) // 2
        return self._by_halving(names[:half]) + self._by_halving(names[half:])

    def _has_effect_lightly(self, name: str) -> bool:
        """Measure a weight for which the identity does not hold: whether its scale has an effect, in the quick way.

        In float32 a factor that is a power of two changes no digit of what is scaled, so the outputs of an invariant
        weight stay equal up to the effect of the epsilon, which cannot be made as small there as in float64. So not if
        the identity is small, as that of an invariant weight with an epsilon is.
        """
        if name in self.causes:  # the measures disagree, see `_measure_alone`
            return False
        scale = max(self.scales)
        probe, limit = self.probe, _CHANGE[self.probe.dtype]
        clear = (self.identity[name] or 0.0) > _CLEAR
        if clear and math.frexp(scale)[0] == 0.5 and (quick := self.quick()) is not None:
            probe, limit = quick, _ROUNDING[torch.float32]
        with probe.lightly():
            outputs = probe.outputs_with({name: scale})
            self.deviation[name] = change(outputs, probe.base)
            if self.deviation[name] <= limit or self._only_epsilon(name, {scale: outputs}, probe):
                return False
        self.invariant[name] = False
        return True

    def _measure_alone(self, name: str) -> None:
        """Measure a weight for which the identity and the outputs seem to disagree, with the usual inputs."""
        scales = (min(self.scales), max(self.scales)) if name in self.causes else (max(self.scales),)
        found = {c: self.probe.outputs_with({name: c}) for c in scales}
        deviation = self.deviation[name] = max(change(outputs, self.probe.base) for outputs in found.values())
        alike = name in self.causes and deviation <= _ROUNDING[self.probe.dtype]  # the other one of two suspects
        self.invariant[name] = alike or self._only_epsilon(name, found, self.probe)
        if self.invariant[name]:
            self.causes.pop(name, None)
            return
        identity = self.identity[name] or 0.0
        if identity <= _IDENTITY[self.probe.dtype] or deviation <= _VISIBLE[self.probe.dtype]:
            self.causes[name] = disagreement(identity, deviation)

    def _measure_unreached(self, names: Sequence[str], *, find_unused: bool) -> None:
        """Measure the weights that have no gradient: together, and in halves where their scale has an effect."""
        self.invariant.update(dict.fromkeys(names, True))
        self.say(f'{len(names)} weights without a gradient')
        for name in self._not_flat_together(names):
            self.invariant[name] = self._worst_together([name]) <= _CHANGE[self.probe.dtype]
        unmoved = [name for name in names if self.invariant[name]] if find_unused else []
        for name in self._moved_by_noise(unmoved):
            unmoved.remove(name)
        self.causes.update(dict.fromkeys(unmoved, UNUSED))

    def _moved_by_noise(self, names: Sequence[str]) -> list[str]:
        """Find, by halving, the weights whose direction changes the outputs."""
        if not names or self.probe.change_by_noise(names) <= _CHANGE[self.probe.dtype]:
            return []
        if len(names) == 1:
            return list(names)
        half = len(names) // 2
        return self._moved_by_noise(names[:half]) + self._moved_by_noise(names[half:])

    @staticmethod
    def _only_epsilon(name: str, found: Mapping[float, list[Tensor]], probe: Probe) -> bool:
        """Check whether the deviation comes from an epsilon that is no attribute of a module.

        The effect of an epsilon fades with the square of c, so each step from c to 4c changes the outputs by a
        sixteenth of the change of the previous step; and it is small compared to the effect of a random step. A small
        effect alone proves nothing: before training, the loss of a deep network hardly depends on any single weight.

        Args:
            name: The weight.
            found: Outputs that are known already, by ``c``.
            probe: Where they come from.
        """
        deviation = max(change(outputs, probe.base) for outputs in found.values())
        if deviation > _EPSILON:
            return False
        before, last = probe.base, math.inf
        for c in (4.0, 16.0, 64.0, 256.0, 1024.0):
            outputs = found[c] if c in found else probe.outputs_with({name: c})
            step = change(outputs, before)
            if c > 4 and step > _ROUNDING[probe.dtype] and not 1 / 20 <= step / last <= 1 / 12:
                return False
            before, last = outputs, step
        return deviation <= _EPSILON * probe.change_by_noise([name])

    # -- explaining -----------------------------------------------------------------------------------------------

    def explain(self, follow: Collection[str] | None) -> None:
        """Find the causes of failures, beginning with those that explain many tensors at once."""
        self._explain_shared()
        self._explain_by(['batch_statistics'], STORED_STATISTICS)
        self._explain_by(['without_biases'], BIAS)
        self._explain_by(['batch_statistics', 'without_biases'], STORED_STATISTICS_AND_BIAS)
        self._trace([name for name in self._open() if follow is None or name in follow])
        self.causes.update({name: cause_on_path(path) for name, (_, path) in self._steps.items()})

    def _open(self) -> list[str]:
        return [name for name in self.names if not self.invariant[name] and name not in self.causes]

    def _explain_by(self, interventions: Sequence[str], cause: Cause) -> None:
        """Assign a cause to the weights that become invariant when the interventions remove it."""
        names = self._open()
        if not names:
            return
        self.say(f'{len(names)} weights with {" and ".join(interventions).replace("_", " ")}')
        with self.probe.lightly(), ExitStack() as stack:
            for intervention in interventions:
                stack.enter_context(getattr(self.probe, intervention)())
            gradients = self.probe.gradients(1)
        flat = [n for n in names if (g := gradients[n]) is not None and self._flat(n, g)]
        self.causes.update(dict.fromkeys(flat, cause))

    def _flat(self, name: str, gradient: Tensor) -> bool:
        identity = self._identity(name, gradient)
        return identity is not None and identity <= _IDENTITY[self.probe.dtype]

    def _explain_shared(self) -> None:
        for name in self._open():
            if len(self.probe.weights[name]) == 1:
                continue
            with self.probe.untied(name) as uses:
                gradients = self.probe.gradients(1)
                flat = {use: (g := gradients[use]) is not None and self._flat(use, g) for use in uses}
            if any(flat.values()):
                self.causes[name] = shared_weight(
                    [use for use in uses if flat[use]], [use for use in uses if not flat[use]]
                )

    def _trace(self, names: Sequence[str]) -> None:
        if not names:
            return
        with self.probe.lightly(), self.probe.batch_statistics(), self.probe.without_biases():
            base = self._operations()
            for i, name in enumerate(names):
                self.say(f'weight {i + 1} of {len(names)} through the forward')
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
        """Measure several weights multiplied by the same factor."""
        primary = {alias: name for name, aliases in self.probe.weights.items() for alias in aliases}
        names = list(dict.fromkeys(primary[member] for member in members))
        together = [dict.fromkeys(names, c) for c in (min(self.scales), max(self.scales))]
        with self.probe.lightly():
            deviation = self.probe.change_with(together[1])
        if deviation <= _CHANGE[self.probe.dtype]:
            deviation = max(self.probe.change_with(scales) for scales in together)
        failing = tuple(name for name in names if not self.invariant[name])
        return GroupRecord(label, tuple(names), deviation <= _CHANGE[self.probe.dtype], deviation, failing)

    def find_groups(self) -> list[GroupRecord]:
        """Find tensors that fail alone and hold together: their signals are added before a norm layer."""
        failing = [name for name in self.names if not self.invariant[name]]
        groups: list[GroupRecord] = []
        taken: set[str] = set()
        for seed in failing:
            if seed in taken or seed not in self._steps or not self._steps[seed][1].sums:
                continue
            names = self._grow([seed], [n for n in failing if n in self._steps and n not in taken])
            if len(names) > 1 and (record := self.group(f'found {len(groups) + 1}', names)).scale_invariant:
                groups.append(record)
                taken.update(names)
        return groups

    def _grow(self, names: list[str], candidates: Sequence[str]) -> list[str]:
        """Add the tensors whose signals meet the group's signal in a sum, until the group passes or none remain."""
        with self.probe.lightly(), self.probe.batch_statistics(), self.probe.without_biases():
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
        cause, reason, advice = self.causes.get(name) or (INVARIANT if self.invariant[name] else UNEXPLAINED)
        if '{name}' in advice:
            advice = advice.format(name=f'^{re.escape(name)}$')
        frozen = name in self.probe.frozen
        if frozen:
            note = 'frozen (requires_grad=False), so it joins the norm-fixing set only when it is thawed'
            reason = note if cause == 'invariant' else f'{note}; {reason}'
            advice = f'if it is thawed later: {advice}' if advice and cause != 'unused' else ''
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
            feeds_classifier=name in self._steps and self._steps[name][1].feeds_classifier,
            called=self.probe.model.get_submodule(name.rpartition('.')[0]) in self.probe.called,
            parts=self.parts.get(name, {}),
        )
