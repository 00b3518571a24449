"""Norm fixing per layer, in place of one norm for the whole set."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, Place, flagged, places
from mmfixnorm.core.norm_fixing import Moves, NormFixer, unless_skipped
from mmfixnorm.core.norms import joint_norms, local_norms, scale_
from mmfixnorm.engine.optim_wrapper import FixNormAmpOptimWrapper, FixNormOptimWrapper, NormFixingMixin
from mmfixnorm.engine.start import config_errors
from mmfixnorm.peers.checks import replace_norm_fixer

__all__ = ['PerLayerFixNormAmpOptimWrapper', 'PerLayerFixNormOptimWrapper', 'TensorNormFixer']


class TensorNormFixer(NormFixer):
    r"""Keeps the norm of each flagged tensor: :math:`W_l \leftarrow W_l \, N_l / \|W_l\|` after each step.

    Layers cannot trade norm, unlike with :class:`~mmfixnorm.core.NormFixer`, where the optimizer distributes it over
    the layers; so the effective learning rate :math:`\eta / N_l^2` of each layer is determined (eq. 4). All three
    choices of ``N_l`` keep the initial joint norm, :math:`\sum_l N_l^2 = \|W_0\|^2`:

    - ``'init'``: :math:`N_l = \|W_{l,0}\|`, the norm from the initialisation or from a loaded checkpoint;
    - ``'equal'``: :math:`N_l = \|W_0\| / \sqrt{L}` for all ``L`` tensors: equal effective learning rates;
    - ``{pattern: factor}``: :math:`N_l \propto \text{factor} \cdot \|W_{l,0}\|`, with factor 1 for weights that match
      no pattern. Patterns are regular expressions, searched for in the names passed to :meth:`take_names`.

    The norms are taken before the first step, and kept from then on. A tensor that is frozen later stays unchanged. One
    that the first step does not move joins with its own norm when it does, which only ``'init'`` allows.

    Args:
        target (float, optional): Must be None.
        targets (str | Mapping[str, float]): One of the three choices. Defaults to 'init'.

    Raises:
        ValueError: If a target is given, if ``targets`` is none of the three or a factor is not finite and > 0, or if a
            norm is not finite and > 0 before the first step.
    """

    per = 'tensor'

    def __init__(self, target: float | None = None, targets: str | Mapping[str, float] = 'init') -> None:
        if target is not None:
            raise ValueError(f'target must be None where each tensor keeps its own norm, got {target!r}')
        super().__init__()
        self.targets = _checked(targets)
        if self.targets != 'init':
            # With the targets in the unit, a checkpoint of a run with other targets is refused.
            self.per = f'tensor with targets={self.targets!r}'
        self.norms: list[float] = []
        self._factors: dict[Tensor, float] = {}

    def take_names(self, named: Mapping[str, Tensor]) -> dict[str, int]:
        """Match the patterns of ``targets`` with the names of the flagged tensors; call it before the first step.

        Returns:
            dict[str, int]: Number of tensors that each pattern matches.

        Raises:
            ValueError: If a pattern matches none of the names, or two patterns match the same name.
        """
        counts: dict[str, int] = {}
        owners: dict[str, str] = {}
        for pattern, factor in self.targets.items() if isinstance(self.targets, dict) else ():
            matches = [name for name in named if re.search(pattern, name)]
            if not matches:
                raise ValueError(
                    f'targets: the pattern {pattern!r} matches none of the {len(named)} weights of the norm-fixing set '
                    f'({", ".join([*named][:3])}, ...)'
                )
            for name in matches:
                if name in owners:
                    raise ValueError(f'targets: {owners[name]!r} and {pattern!r} both match {name}')
                owners[name] = pattern
                self._factors[named[name]] = factor
            counts[pattern] = len(matches)
        return counts

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), 'norms': self.norms}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer: Optimizer) -> None:
        super().load_state_dict(state_dict, optimizer)
        self.norms = list(state_dict['norms'])

    def _take_targets(self, moved: Mapping[Place, Tensor], every: Mapping[Place, Tensor]) -> None:
        super()._take_targets(moved, every)
        self.norms = _joint_norm_of_each(moved, self._norms_before, every).tolist()
        for tensor, norm in zip(moved.values(), self.norms, strict=True):
            if not (math.isfinite(norm) and norm > 0):
                raise ValueError(
                    f'each norm must be finite and > 0 before the first step, got {norm} for a weight of shape '
                    f'{tuple(tensor.shape)}; check the initialisation or the checkpoint that was loaded'
                )
        if self.targets == 'init':
            return
        if self.targets == 'equal':
            shares = [1.0] * len(moved)
        elif not self._factors:
            raise ValueError('targets are chosen by name, and take_names was not called with the names of the weights')
        else:
            shares = [n * self._factors.get(t, 1.0) for n, t in zip(self.norms, moved.values(), strict=True)]
        joint = math.hypot(*self.norms)
        self.norms = [joint * share / math.hypot(*shares) for share in shares]

    def _join(
        self, optimizer: Optimizer, joining: Sequence[Place], every: Mapping[Place, Tensor], *, sharded: bool
    ) -> None:
        if joining and self.targets != 'init':
            raise ValueError(
                f'targets={self.targets!r} divides the norm in the first step, and {len(joining)} weights move only '
                "after it (frozen, or unused so far); set targets='init'"
            )
        norms = iter(self.norms)
        super()._join(optimizer, joining, every, sharded=sharded)
        own = dict(zip(every, _joint_norm_of_each(every, self._norms_before, every), strict=True))
        self.norms = [own[place].item() if place in joining else next(norms) for place in places(optimizer, FLAG)]

    def _rescale(self, optimizer: Optimizer, moves: Moves) -> None:
        measured = moves.every or moves.moved
        norms = dict(zip(measured, _joint_norm_of_each(measured, _local(measured), measured), strict=True))
        for (place, tensor), target in zip(places(optimizer, FLAG).items(), self.norms, strict=True):
            if place in moves.moved:
                scale_([tensor], unless_skipped(target / norms[place], optimizer))


def _local(tensors: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    return dict(zip(tensors, local_norms([*tensors.values()]), strict=True))


def _joint_norm_of_each(
    tensors: Mapping[Place, Tensor], local: Mapping[Place, Tensor], every: Mapping[Place, Tensor]
) -> Tensor:
    """Combine the local norms of each tensor; a tensor without one counts 0 in this process."""
    parts = [([t], [local[place]]) if place in local else ([], []) for place, t in tensors.items()]
    return joint_norms(parts, [*every.values()])


def _checked(targets: Any) -> str | dict[str, float]:
    """Check ``targets`` and sort its patterns, so that equal targets compare and print equal."""
    if targets in ('init', 'equal'):
        return str(targets)
    if not isinstance(targets, Mapping) or not targets:
        raise ValueError(f"targets must be 'init', 'equal' or a dict of regular expression -> factor, got {targets!r}")
    for pattern, factor in targets.items():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise ValueError(f'targets[{pattern!r}] must be a finite factor > 0, got {factor!r}')
        try:
            re.compile(pattern)
        except re.error as err:
            raise ValueError(f'targets[{pattern!r}] is not a regular expression: {err}') from err
    return {pattern: float(targets[pattern]) for pattern in sorted(targets)}


class _PerLayerMixin(NormFixingMixin):
    """Takes ``targets``, and gives the :class:`TensorNormFixer` the names of the weights."""

    norm_fixer: TensorNormFixer

    def __init__(self, *args: Any, targets: str | Mapping[str, float] = 'init', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with config_errors('optim_wrapper.'):
            norm_fixer = TensorNormFixer(targets=targets)
        replace_norm_fixer(self, norm_fixer, 'the norm of each layer, as targets says', kwargs)

    def attach(self, model: nn.Module, first_groups: list[dict[str, Any]] | None = None) -> None:
        super().attach(model, first_groups)
        names = {id(param): name for name, param in model.named_parameters()}
        with config_errors('optim_wrapper.'):
            counts = self.norm_fixer.take_names({names[id(t)]: t for t in flagged(self.optimizer)})
        for pattern, count in counts.items():
            print_log(f'targets[{pattern!r}] sets the norm of {count} weights', logger='current')


@OPTIM_WRAPPERS.register_module()
class PerLayerFixNormOptimWrapper(_PerLayerMixin, FixNormOptimWrapper):
    """:class:`FixNormOptimWrapper` that keeps the norm of each layer's weight instead of the joint one.

    Takes the same arguments except ``target``, and ``targets``: each layer keeps its own norm (``'init'``, the
    default), all have the same (``'equal'``), or some have others (``{regular expression: factor}``); see
    :class:`TensorNormFixer`. A run resumes only from a checkpoint of the same wrapper with the same targets.
    :class:`FixNormEMAHook` restores the joint norm of an average, not the norm of each layer.

    Hoffer et al., "Norm matters: efficient and accurate normalization schemes in deep networks", NeurIPS 2018, bound
    the norm by a parametrisation, per output channel (see :class:`NormBoundedConv2d`); this is the same idea by
    projection, per tensor. Read: the abstract and the authors' code (eladhoffer/norm_matters).

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     type='PerLayerFixNormOptimWrapper',
        ...     targets='equal',
        ...     constructor='FixNormOptimWrapperConstructor',
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9, nesterov=True))
    """


@OPTIM_WRAPPERS.register_module()
class PerLayerFixNormAmpOptimWrapper(_PerLayerMixin, FixNormAmpOptimWrapper):
    """:class:`FixNormAmpOptimWrapper` that keeps the norm of each layer's weight; see the wrapper without AMP."""
