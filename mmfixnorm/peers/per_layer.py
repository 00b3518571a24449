"""Norm fixing layer by layer, in place of one norm for the whole set."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmfixnorm.core.norm_fixing import NormFixer, flagged, global_norm, scale_unless_skipped_, starting_norm
from mmfixnorm.engine.optim_wrapper import FixNormAmpOptimWrapper, FixNormOptimWrapper, NormFixingMixin
from mmfixnorm.engine.start import config_errors

__all__ = ['PerLayerFixNormAmpOptimWrapper', 'PerLayerFixNormOptimWrapper', 'TensorNormFixer']


class TensorNormFixer(NormFixer):
    r"""Keeps the norm of each flagged tensor: :math:`W_l \leftarrow W_l \, N_l / \|W_l\|` after each step.

    Layers cannot trade norm, unlike under :class:`~mmfixnorm.core.NormFixer`, where the optimizer decides who has how
    much; so the effective learning rate :math:`\eta / N_l^2` of each layer is set (eq. 4). The joint norm is that of
    the start under each of the three ways to choose ``N_l``, with :math:`\sum_l N_l^2 = \|W_0\|^2`:

    - ``'init'``: :math:`N_l = \|W_{l,0}\|`, what the initialisation or a loaded checkpoint gave it;
    - ``'equal'``: :math:`N_l = \|W_0\| / \sqrt{L}` for all ``L`` tensors: equal effective learning rates;
    - ``{pattern: factor}``: :math:`N_l \propto \text{factor} \cdot \|W_{l,0}\|`, 1 for weights that no pattern
      matches. Patterns are regular expressions, searched for in the names that :meth:`take_names` is told.

    The norms are taken before the first step, and held from that step on. A tensor that is frozen later stays as it is.

    Args:
        target (float, optional): Must be None.
        targets (str | Mapping[str, float]): One of the three. Defaults to 'init'.

    Raises:
        ValueError: If a target is given, if ``targets`` is none of the three or a factor not finite and > 0, or if a
            norm is not finite and > 0 before the first step.
    """

    per = 'tensor'

    def __init__(self, target: float | None = None, targets: str | Mapping[str, float] = 'init') -> None:
        if target is not None:
            raise ValueError(f'target must be None where each tensor keeps its own norm, got {target!r}')
        super().__init__()
        self.targets = _checked(targets)
        if self.targets != 'init':
            # A part of what is kept, so that a checkpoint of other targets is refused as one of another kind is.
            self.per = f'tensor with targets={self.targets!r}'
        self.norms: list[float] = []
        self._factors: dict[Tensor, float] = {}

    def take_names(self, named: Mapping[str, Tensor]) -> dict[str, int]:
        """Match the patterns of ``targets`` with the names of the flagged tensors; to be called before the first step.

        Returns:
            dict[str, int]: How many tensors each pattern matches.

        Raises:
            ValueError: If a pattern matches none of the names, or two patterns the same.
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

    def _take_targets(self, tensors: Sequence[Tensor]) -> None:
        super()._take_targets(tensors)
        self.norms = [starting_norm([tensor]) for tensor in tensors]
        if self.targets == 'init':
            return
        if self.targets == 'equal':
            shares = [1.0] * len(tensors)
        elif not self._factors:
            raise ValueError('targets go by name, and take_names has not told the names of the weights')
        else:
            shares = [n * self._factors.get(t, 1.0) for n, t in zip(self.norms, tensors, strict=True)]
        joint = math.hypot(*self.norms)
        self.norms = [joint * share / math.hypot(*shares) for share in shares]

    @torch.no_grad()
    def _hold(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for tensor, norm in zip(flagged(optimizer), self.norms, strict=True):
            if tensor.requires_grad:
                scale_unless_skipped_([tensor], norm / global_norm([tensor]), optimizer)


def _checked(targets: Any) -> str | dict[str, float]:
    """``targets`` in one form, whatever the order of the patterns, so that equal ones compare and print equal."""
    if targets in ('init', 'equal'):
        return str(targets)
    if not isinstance(targets, Mapping) or not targets:
        raise ValueError(f"targets must be 'init', 'equal' or a dict of regular expression -> factor, got {targets!r}")
    for pattern, factor in targets.items():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise ValueError(f'targets[{pattern!r}] must be a factor, finite and > 0, got {factor!r}')
        try:
            re.compile(pattern)
        except re.error as err:
            raise ValueError(f'targets[{pattern!r}] is no regular expression: {err}') from err
    return {pattern: float(targets[pattern]) for pattern in sorted(targets)}


class _PerLayerMixin(NormFixingMixin):
    """Takes ``targets``, and gives the :class:`TensorNormFixer` the names of the weights."""

    norm_fixer_type: ClassVar[type[NormFixer]] = TensorNormFixer
    norm_fixer: TensorNormFixer

    def __init__(self, *args: Any, targets: str | Mapping[str, float] = 'init', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with config_errors('optim_wrapper.'):
            self.norm_fixer = TensorNormFixer(targets=targets)

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        names = {id(param): name for name, param in model.named_parameters()}
        with config_errors('optim_wrapper.'):
            counts = self.norm_fixer.take_names({names[id(t)]: t for t in flagged(self.optimizer)})
        for pattern, count in counts.items():
            print_log(f'targets[{pattern!r}] sets the norm of {count} weights', logger='current')


@OPTIM_WRAPPERS.register_module()
class PerLayerFixNormOptimWrapper(_PerLayerMixin, FixNormOptimWrapper):
    """:class:`FixNormOptimWrapper` that keeps the norm of each layer's weight instead of the joint one.

    Takes the same arguments but for ``target``, and ``targets``: whether each keeps its own norm (``'init'``, the
    default), all have the same (``'equal'``), or some other ones (``{regular expression: factor}``); see
    :class:`TensorNormFixer`. A run is resumed only from a checkpoint of the same wrapper with the same targets.
    :class:`FixNormEMAHook` puts back the joint norm of an average, not that of each layer.

    Hoffer et al., "Norm matters: efficient and accurate normalization schemes in deep networks", NeurIPS 2018, bound
    the norm by a parametrisation, per output channel (see :class:`NormBoundedConv2d`); this is the same idea by
    projection and per tensor. Read: the abstract and the authors' code (eladhoffer/norm_matters).

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
