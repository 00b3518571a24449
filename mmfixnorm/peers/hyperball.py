"""Hyperball (Wen et al. 2026): weights and steps of fixed norms, whatever the optimizer inside."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, places
from mmfixnorm.core.norm_fixing import Moves, unless_skipped
from mmfixnorm.core.norms import scale_, tensor_norm
from mmfixnorm.core.rotation import ProposalNormFixer, bring_to_one_
from mmfixnorm.engine.optim_wrapper import FixNormAmpOptimWrapper, FixNormOptimWrapper, NormFixingMixin
from mmfixnorm.peers.checks import replace_norm_fixer
from mmfixnorm.peers.per_layer import TensorNormFixer

__all__ = ['HyperballAmpOptimWrapper', 'HyperballNormFixer', 'HyperballOptimWrapper']


class HyperballNormFixer(ProposalNormFixer, TensorNormFixer):
    r"""Replaces each step by one of a share of the norm, then restores the norm, for each flagged tensor.

    :math:`W \leftarrow R\, \mathrm{N}(W - \eta R\, \mathrm{N}(U))` with :math:`\mathrm{N}(X) = X / \|X\|`, the norm
    :math:`R` before the first step, the learning rate :math:`\eta` of the group, and the optimizer's step :math:`-U`,
    whose length has no effect. A weight that the optimizer does not move stays. The radial part of :math:`U` is not
    removed, so that a weight turns by at most about :math:`\arcsin\eta`.

    Needs one copy of the set.

    Raises:
        ValueError: At a step, if a norm is not finite and > 0 before the first one, or if weights are sharded.
    """

    per = 'tensor, with steps of a share of it'

    def __init__(self) -> None:
        super().__init__()

    def _rescale(self, optimizer: Optimizer, moves: Moves) -> None:
        if moves.every:
            raise ValueError('Hyperball does not work with sharded weights; train it under DDP or on one device')
        norms = dict(zip(places(optimizer, FLAG), self.norms, strict=True))
        steps, weights = self._proposal(moves.moved)
        if steps:
            bring_to_one_(steps, 'layer')
        for place, step, weight in zip(moves.moved, steps, weights, strict=True):
            length = tensor_norm(step)
            share = optimizer.param_groups[place[0]]['lr'] * norms[place] / length
            scale_([step], torch.where(length > 0, share, torch.zeros_like(length)))
            step.add_(weight)
            scale_([step], unless_skipped(norms[place] / tensor_norm(step), optimizer))


class _HyperballMixin(NormFixingMixin):
    relative_lr: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        replace_norm_fixer(self, HyperballNormFixer(), 'the norm of each weight', kwargs)


@OPTIM_WRAPPERS.register_module()
class HyperballOptimWrapper(_HyperballMixin, FixNormOptimWrapper):
    r"""Optim wrapper that keeps each weight's norm and makes each of its steps a share of it: AdamH, MuonH and others.

    The learning rate is the share :math:`\eta`, see :class:`HyperballNormFixer`; the optimizer inside chooses the
    direction. Parameters outside the set make the optimizer's own step, with ``other_lr`` times the learning rate: 20
    by default, for SGD; about 0.1 for Adam and Muon. A run resumes only from a checkpoint of the same wrapper.

    Wen et al., "Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization", arXiv:2606.16899,
    2026. Read: the abstract and the authors' posts with the formula; not the text of the paper. They apply it to the
    matrices between embedding and classifier; here it is the norm-fixing set, a convolution kernel being one matrix.

    Args:
        other_lr (float, optional): Learning rate of all other parameters, as a multiple. None means 20.

    Raises:
        ConfigError: If no group is flagged, or ``target`` or ``update='angle'`` is given.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     type='HyperballOptimWrapper', other_lr=0.1,
        ...     constructor='FixNormOptimWrapperConstructor',
        ...     optimizer=dict(type='Muon', lr=0.02))
    """


@OPTIM_WRAPPERS.register_module()
class HyperballAmpOptimWrapper(_HyperballMixin, FixNormAmpOptimWrapper):
    """:class:`HyperballOptimWrapper` with automatic mixed precision."""
