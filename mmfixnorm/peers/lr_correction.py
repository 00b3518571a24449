"""Learning rates per layer, corrected to the effective steps of a run with weight decay (Hoffer et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG, WAITING, flag_group
from mmfixnorm.core.norm_fixing import add_step_hooks
from mmfixnorm.core.norms import global_norm
from mmfixnorm.engine.hooks.fix_norm_hook import optimizer_of, unwrapped_model
from mmfixnorm.engine.optim_wrapper_constructor import FixNormOptimWrapperConstructor
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers.checks import require_flagged_groups, require_no_decay
from mmfixnorm.peers.reference_norms import NormCurve, read_norm_curves

__all__ = ['LRCorrectionHook', 'PerLayerGroupsOptimWrapperConstructor']

_CONSTRUCTOR = "optim_wrapper.constructor='PerLayerGroupsOptimWrapperConstructor'"


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PerLayerGroupsOptimWrapperConstructor(FixNormOptimWrapperConstructor):
    """:class:`FixNormOptimWrapperConstructor` with a group, and so a learning rate, for each weight of the set.

    Takes the same options. Slower where the optimizer works group by group.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', is_dcn_module: Any = None
    ) -> None:
        """Append the groups for all parameters of ``module`` to ``params``."""
        groups: list[dict[str, Any]] = []
        super().add_params(groups, module, prefix, is_dcn_module)
        for group in groups:
            if FLAG not in group:
                params.append(group)
                continue
            for param in group['params']:
                params.append({**group, 'params': [param]})
                flag_group(params[-1], [0])


@HOOKS.register_module()
class LRCorrectionHook(Hook):
    r"""Reproduces the steps of a run with weight decay without decay: each layer's rate follows a recorded norm.

    At iteration t the rate of layer l is :math:`\eta_t\, \|w_{l,t}\|^2 / \|w^{\mathrm{ref}}_{l,t}\|^2`, with
    :math:`\eta_t` from the config's schedule, so that its effective rate :math:`\eta / \|w\|^2` equals the one of the
    reference. As in the authors' code the rate is corrected and not the gradient, so momentum buffers accumulate plain
    gradients. The corrected rate is set only during ``optimizer.step``, so schedulers, accumulation and skipped steps
    are not disturbed.

    The reference is a work dir in which ``WeightNormLoggerHook(per_layer=True)`` has recorded; between recordings the
    norm is interpolated linearly, before the first from this run's own start, as both have the same initialisation.
    Iterations of both runs are matched: use the same schedule and batch size. Start norms are saved in checkpoints
    under ``'lr_correction'`` and required on resume. Weights that stay frozen need no norm in the reference. One host
    synchronisation in each step.

    Hoffer et al., "Norm matters: efficient and accurate normalization schemes in deep networks", NeurIPS 2018. Read:
    the abstract and the authors' code (eladhoffer/norm_matters, ``normmatters_wd``), not the text. There the norms are
    per output channel and recorded once an epoch; here they are per layer, as this package records them.

    Args:
        reference (str): Work dir of the run with weight decay.

    Raises:
        ConfigError: If the reference has no norms of this model's layers, or is shorter than this run, if the groups
            are not one for each layer or have weight decay, or on resume from a run without correction.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> custom_hooks = [dict(type='LRCorrectionHook', reference='work_dirs/resnet20_wd')]
        >>> optim_wrapper = dict(
        ...     constructor='PerLayerGroupsOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=1e-4),
        ...     optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True))
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self._starts: dict[str, float] | None = None
        self._begins: dict[str, int] = {}  # iterations until which weights were frozen, of those that were
        self._curves: dict[str, NormCurve] = {}
        self._plain_lrs: list[float] = []
        self._iter = 0
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        optimizer = optimizer_of(runner)
        require_flagged_groups(optimizer, 'LRCorrectionHook', _CONSTRUCTOR)
        require_no_decay(optimizer, 'LRCorrectionHook')
        if any(len(group['params']) != 1 for group in _layers(optimizer)):
            raise ConfigError(f'LRCorrectionHook needs a group for each layer: set {_CONSTRUCTOR}')
        names = {id(param): name for name, param in unwrapped_model(runner).named_parameters()}
        self._names = [names[id(group['params'][0])] for group in _layers(optimizer)]
        trained = [names[id(p)] for group in _layers(optimizer) for p in group['params'] if p.requires_grad]
        self._curves = self._read_curves(runner.max_iters, trained)
        for handle in self._handles:  # of an earlier call of runner.train()
            handle.remove()
        self._handles = add_step_hooks(optimizer, self._correct, self._put_back)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        self._iter = runner.iter

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        if 'lr_correction' not in checkpoint:
            raise ConfigError(
                "the checkpoint has no state 'lr_correction': it was not written by a run with LRCorrectionHook. "
                'Use load_from instead of resume to start from its weights'
            )
        self._starts = checkpoint['lr_correction']
        self._begins = checkpoint.get('lr_correction_begins', {})  # missing in those of early versions

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['lr_correction'] = self._starts
        checkpoint['lr_correction_begins'] = self._begins

    def _read_curves(self, max_iters: int, trained: Sequence[str]) -> dict[str, NormCurve]:
        curves = read_norm_curves(self.reference)
        missing = [name for name in trained if name not in curves]
        if missing:
            raise ConfigError(
                f'LRCorrectionHook.reference: {self.reference!r} has no norms of {missing[:3]} '
                f'({len(missing)} of {len(trained)} layers); it must be a run of the same model'
            )
        last = min((curves[name].last_step for name in trained), default=max_iters)
        if last < max_iters - 1:
            raise ConfigError(
                f'LRCorrectionHook.reference: {self.reference!r} is recorded up to iteration {last}, this run has '
                f'{max_iters}; it must be a run of the same length'
            )
        return curves

    @torch.no_grad()
    def _correct(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        layers = _layers(optimizer)
        norms = torch.stack([global_norm(group['params']) for group in layers]).tolist()
        # A checkpoint of an early version does not have the starts of weights that were frozen, which they still are.
        self._starts = dict(zip(self._names, norms, strict=True)) | (self._starts or {})
        self._plain_lrs = [group['lr'] for group in layers]
        for name, group, norm in zip(self._names, layers, norms, strict=True):
            if not group['params'][0].requires_grad:
                self._starts[name], self._begins[name] = norm, self._iter + 1
                continue
            if name not in self._curves:
                raise ConfigError(
                    f'LRCorrectionHook.reference: {name} was thawed, and {self.reference!r} has no norms of it; it '
                    'must be a run with the same weights frozen'
                )
            reference = self._curves[name].at(self._iter, self._starts[name], self._begins.get(name, 0))
            group['lr'] *= (norm / reference) ** 2

    def _put_back(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, lr in zip(_layers(optimizer), self._plain_lrs, strict=True):
            group['lr'] = lr


def _layers(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get(FLAG) or group.get(WAITING)]
