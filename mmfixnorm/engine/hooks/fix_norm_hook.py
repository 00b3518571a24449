"""Norm fixing for configs whose optim wrapper must not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmfixnorm.core.membership import flag_set, names_without_wrappers, require_same_set, trainable_by
from mmfixnorm.core.norm_fixing import NormFixer, norm_fixing_parameters
from mmfixnorm.core.rotation import make_norm_fixer
from mmfixnorm.engine.start import (
    check_norm,
    choose_set,
    config_errors,
    log_membership,
    prepare_model,
    warn_of_clipped_scales,
    warn_of_negative_scales,
    warn_of_set,
)
from mmfixnorm.errors import ConfigError


@HOOKS.register_module()
class FixNormHook(Hook):
    """Keeps the joint norm of all conv and FC weights, with any optim wrapper and any constructor.

    The usual way is :class:`FixNormOptimWrapper`; this hook uses the same core from outside. It flags the tensors in
    the optimizer's groups before training, after weights are initialised, loaded or resumed; the norm itself is
    restored inside ``optimizer.step``, so the priorities of other hooks do not matter. The target is saved in
    checkpoints under ``'fix_norm'`` and required on resume. The hook does not change the groups: the config must set
    ``weight_decay=0``, and the hook warns if it does not.

    Args:
        fc (bool): Whether FC weights belong to the set; ``False`` for Algorithm 1. Defaults to True.
        exclude (Sequence[str]): Regular expressions of weight names to leave out. Defaults to none.
        target (float | str, optional): The norm to keep, see :class:`FixNormOptimWrapper`. Defaults to None.
        update (str): ``'step'`` or ``'angle'``, see :class:`FixNormOptimWrapper`. With ``'angle'`` the constructor must
            give the other parameters learning rates of their own. Defaults to 'step'.
        per (str, optional): With ``update='angle'``, what turns. None means ``'layer'``.

    Raises:
        ConfigError: If an argument is invalid, if the set is empty, or on resume from a checkpoint without
            norm fixing or of another set.
    """

    def __init__(
        self,
        fc: bool = True,
        exclude: Sequence[str] = (),
        target: float | str | None = None,
        update: str = 'step',
        per: str | None = None,
    ) -> None:
        self.fc = fc
        self.exclude = exclude
        with config_errors('FixNormHook.'):
            self.norm_fixer = make_norm_fixer(target, update, per)
        self.norm_fixer.report.write = log_membership
        self._resumed: dict[str, Any] | None = None
        self._chosen: list[str] = []
        self._turned: set[str] = set()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:  # called before the model loads the weights of the checkpoint
            if self.norm_fixer.wants_init_norm:
                self.norm_fixer.take_init_norm([*self._set(unwrapped_model(runner)).values()])
            return
        if 'fix_norm' not in checkpoint:
            raise ConfigError(
                "the checkpoint has no state 'fix_norm': it was not written by a run with FixNormHook. "
                'Use load_from instead of resume to start from its weights'
            )
        self._resumed = checkpoint['fix_norm']

    def before_train(self, runner: Runner) -> None:
        if not any(norm_fixer is self.norm_fixer for norm_fixer, _ in norm_fixers_of(runner)):
            raise ConfigError(
                'norm fixing is set up twice: FixNormHook in custom_hooks, and '
                f"optim_wrapper.type='{type(runner.optim_wrapper).__name__}'; remove one of them"
            )
        model, optimizer = unwrapped_model(runner), optimizer_of(runner)
        prepare_model(runner.model)
        with config_errors('FixNormHook: '):
            chosen = norm_fixing_parameters(model, fc=self.fc, exclude=self.exclude, frozen=True)
            self._chosen = names_without_wrappers(chosen)
            if self._resumed is None:
                flag_set(optimizer, trainable_by(optimizer, self._set(model).values()))
                warn_of_clipped_scales(model)
            else:  # the resumed groups have the flags
                # By what the options choose, as the set itself may have grown since, or be that of an early version.
                require_same_set(self._resumed.get('chosen', self._chosen), self._chosen)
                self.norm_fixer.report.take_names(model, optimizer)
                self.norm_fixer.load_state_dict(self._resumed, optimizer)
        warn_of_set(model, optimizer)
        self.norm_fixer.report.take_names(model, optimizer)
        with config_errors('FixNormHook: '):
            self.norm_fixer.install(optimizer)

    def _set(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return choose_set(model, fc=self.fc, exclude=self.exclude, named_by='FixNormHook')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        check_norm(self.norm_fixer, optimizer_of(runner))
        warn_of_negative_scales(runner.model, self._turned)
        checkpoint['fix_norm'] = {**self.norm_fixer.state_dict(), 'chosen': self._chosen}


def norm_fixers_of(runner: Runner) -> list[tuple[NormFixer, torch.optim.Optimizer]]:
    """Return each NormFixer of a run with its optimizer: of its optim wrappers, or of its :class:`FixNormHook`.

    A run that only tests or validates has none: its optim wrapper is missing, or a config that is not built.
    """
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, BaseOptimWrapper):
        return []
    wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    pairs = [(w.norm_fixer, w.optimizer) for w in wrappers if hasattr(w, 'norm_fixer')]
    if pairs:
        return pairs
    hooks = [hook for hook in runner.hooks if isinstance(hook, FixNormHook)]
    return [(hooks[0].norm_fixer, optimizer_of(runner))] if hooks else []


def optimizer_of(runner: Runner) -> torch.optim.Optimizer:
    """Return the optimizer of a run.

    Raises:
        ConfigError: If the run has several optimizers, or none.
    """
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f'optim_wrapper: this hook needs one optimizer, got {type(runner.optim_wrapper).__name__}. Of several '
            "optimizers, let those whose weights are to be fixed have optim wrappers of type 'FixNormOptimWrapper'"
        )
    return optimizer


def unwrapped_model(runner: Runner) -> nn.Module:
    """Return the model without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
