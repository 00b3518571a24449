"""Optim wrappers with norm fixing."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from mmfixnorm.core.membership import FLAG, WAITING, flagged, places
from mmfixnorm.core.rotation import make_norm_fixer
from mmfixnorm.core.sharding import shard_key
from mmfixnorm.engine.start import (
    check_norm,
    config_errors,
    log_membership,
    prepare_model,
    warn_of_clipped_scales,
    warn_of_negative_scales,
)
from mmfixnorm.errors import ConfigError


class NormFixingMixin:
    """Adds norm fixing to an optim wrapper class; the base class does clipping, loss scaling and accumulation.

    The hooks are inside the optimizer; each step installs them if they are missing, so norm fixing survives a replaced
    or copied optimizer. The state of the wrapper contains the target under ``'fix_norm'``; a run resumes only from a
    checkpoint that has it.

    Args:
        target (float | str, optional): The norm to keep: ``'loaded'``, the norm before the first step, after
            ``load_from`` if there is one; ``'init'``, the norm after the initialisation, to which loaded weights are
            then rescaled; or a number. Defaults to None, which means ``'loaded'``.
        update (str): ``'step'``: the set makes the optimizer's step, and its norm is restored (the paper). ``'angle'``:
            it turns by the learning rate, in radians (:class:`~mmfixnorm.core.AngleNormFixer`); schedules then act on
            the angle. Defaults to 'step'.
        per (str, optional): With ``update='angle'``, what turns by it: ``'set'``, ``'layer'`` or ``'filter'``. None
            means ``'layer'``.
        other_lr (float, optional): With ``update='angle'``, the learning rate of all parameters outside the set, as a
            multiple of the angle. None means 20.

    Raises:
        ConfigError: If an argument is invalid, or no parameter group is flagged, which the constructor does.
    """

    relative_lr: ClassVar[bool] = False
    """Whether the learning rate of the set is a share of its norm, so that other parameters need one of their own."""

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        *args: Any,
        target: float | str | None = None,
        update: str = 'step',
        per: str | None = None,
        other_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not any(FLAG in group for group in self.optimizer.param_groups):
            raise ConfigError(
                f'no parameter group is flagged for norm fixing; {type(self).__name__} needs '
                "optim_wrapper.constructor='FixNormOptimWrapperConstructor'"
            )
        with config_errors('optim_wrapper.'):
            self.norm_fixer = make_norm_fixer(target, update, per)
        self.norm_fixer.report.write = log_membership
        self._first_groups: list[dict[str, Any]] | None = None
        self._has_first_groups = False
        self._model: torch.nn.Module | None = None
        self._turned: set[str] = set()  # layers whose scale was seen below 0

    def attach(self, model: torch.nn.Module, first_groups: list[dict[str, Any]] | None = None) -> None:
        """Get to know the model, without its wrapper; the constructor calls this once.

        Args:
            model (nn.Module): The model.
            first_groups (list[dict], optional): The parameter groups that the first version of the constructor made,
                to resume its checkpoints; None if they are the present ones.

        Raises:
            ConfigError: With ``target='init'``, if the weights are sharded.
        """
        self._model = model
        self._first_groups = first_groups
        self.norm_fixer.report.take_names(model, self.optimizer)
        if not self.norm_fixer.wants_init_norm:
            return
        if any(shard_key(tensor) is not None for tensor in flagged(self.optimizer)):
            raise ConfigError("optim_wrapper.target='init' does not work with sharded weights; set a number")

        # Runs before any weights are loaded; a plain function, which copies of the model share.
        def before_loading(*args: Any) -> None:
            self.norm_fixer.take_init_norm(places(self.optimizer, FLAG, WAITING).values())

        model._register_load_state_dict_pre_hook(before_loading)

    def initialize_count_status(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        # The Runner's last call before the loop: the weights are initialised and loaded.
        super().initialize_count_status(model, *args, **kwargs)  # type: ignore[misc]
        prepare_model(model)
        self._model = model
        if self.norm_fixer.state_dict()['size'] is None:  # neither resumed nor trained before
            warn_of_clipped_scales(model)

    def step(self, **kwargs: Any) -> None:
        self.norm_fixer.install(self.optimizer)
        super().step(**kwargs)  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()  # type: ignore[misc]
        check_norm(self.norm_fixer, self.optimizer)
        if self._model is not None:
            warn_of_negative_scales(self._model, self._turned)
        state['fix_norm'] = {**self.norm_fixer.state_dict(), 'first_groups': self._has_first_groups}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of the optimizer and of norm fixing.

        Raises:
            ConfigError: If the state comes from a run without norm fixing or with a different set.
        """
        if 'fix_norm' not in state_dict:
            raise ConfigError(
                "the checkpoint has no state 'fix_norm': it was not written by a run with norm fixing. "
                'Use load_from instead of resume to start from its weights'
            )
        state = dict(state_dict)  # the base class pops keys, so it gets a copy
        fix_norm_state = state.pop('fix_norm')
        if fix_norm_state.get('first_groups', True):  # missing in states of early versions
            self._restore_first_groups()
        flags = [group.get(FLAG) for group in self.optimizer.param_groups]
        with config_errors('resume: '):  # of torch, if the groups differ
            super().load_state_dict(state)  # type: ignore[misc]
        for group, flag in zip(self.optimizer.param_groups, flags, strict=True):
            if flag is not None:  # the optimizer has the checkpoint's groups now, with or without flags
                group.setdefault(FLAG, flag)
        with config_errors('resume: '):
            self.norm_fixer.load_state_dict(fix_norm_state, self.optimizer)

    def _restore_first_groups(self) -> None:
        """Make the groups of the first version of the constructor again, if they are not the present ones."""
        if self._first_groups is None:
            return
        self._has_first_groups = True
        self.optimizer.param_groups.clear()
        for group in self._first_groups:
            self.optimizer.add_param_group(dict(group))
        if self._model is not None:
            self.norm_fixer.report.take_names(self._model, self.optimizer)
        print_log(
            'The checkpoint was written by an earlier version, and the run continues with its parameter groups: '
            'what was frozen at the start stays untrained, and parameters of one dimension may have weight decay.',
            logger='current',
            level=logging.WARNING,
        )


@OPTIM_WRAPPERS.register_module()
class FixNormOptimWrapper(NormFixingMixin, OptimWrapper):
    """:class:`mmengine.optim.OptimWrapper` that keeps the joint norm of the flagged groups (Algorithm 1, 5, 6).

    Takes the arguments of the base class, and ``target``, ``update``, ``per`` and ``other_lr``, see
    :class:`NormFixingMixin`.

    Example of a config:
        >>> optim_wrapper = dict(
        ...     type='FixNormOptimWrapper',
        ...     constructor='FixNormOptimWrapperConstructor',
        ...     optimizer=dict(type='SGD', lr=0.8, momentum=0.9, nesterov=True))
    """


@OPTIM_WRAPPERS.register_module()
class FixNormAmpOptimWrapper(NormFixingMixin, AmpOptimWrapper):
    """:class:`mmengine.optim.AmpOptimWrapper` with norm fixing; a step that the loss scaler skips changes nothing.

    Takes the arguments of the base class, and ``target``, ``update``, ``per`` and ``other_lr``, see
    :class:`NormFixingMixin`.
    """
