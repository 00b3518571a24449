"""Logs of weight norms, and of how far each step turns the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from mmengine.hooks.hook import DATA_BATCH
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import SGD

from mmfixnorm.config import HOOK_NAMES
from mmfixnorm.core.angles import StepAngles, StepMeter, joint_cosine
from mmfixnorm.core.membership import FLAG, WAITING, flagged, places
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.core.norms import global_norm
from mmfixnorm.core.rotation import ProposalNormFixer
from mmfixnorm.core.sharding import local_part, shard_key
from mmfixnorm.engine.hooks.fix_norm_hook import norm_fixers_of, optimizer_of, unwrapped_model
from mmfixnorm.engine.hooks.measuring_hook import MeasuringHook
from mmfixnorm.errors import ConfigError

_START = 'weights_at_start'
_EQUAL = 1.01  # angles that differ by less have no order worth a line of the log: all layers turn alike


@HOOKS.register_module(name=HOOK_NAMES['WeightNormLoggerHook'])
class WeightNormLoggerHook(MeasuringHook):
    """Logs the norm of the norm-fixing set, the angle by which a step turns it, and both for each of its tensors.

    Every ``interval`` iterations and at the end of an epoch, after the step and before LoggerHook. The values appear in
    the log line of this iteration, if there is one, and in no other; so set ``interval`` to a multiple of LoggerHook's.
    Iterations in between cost nothing. With the whole set as one vector:

    - ``train/weight_norm``, after the step.
    - ``train/angle``: the angle between the weights before and after the step, in radians, norm fixing included. It is
      the *angular update* of Wan et al. (NeurIPS 2021) and Yun et al. (ECCV 2022), see :mod:`mmfixnorm.core.angles`:
      the learning rate that scale-invariant weights really have, under every optimizer. Weight decay brings it to about
      ``sqrt(2 * lr * weight_decay / (1 + momentum))`` under SGD; ``update='angle'`` sets it.
    - ``train/angle_median`` and ``train/angle_largest``: of the angles of the tensors that the step moved, in radians.
      The text log names the tensor with the largest one whenever it is another than before.
    - ``train/radial_share``: the part of the step along the weights over the length of the step, in [0, 1], as the
      optimizer proposed the step, before norm fixing. Weight decay and momentum cause it; it turns nothing.
    - ``train/cosine_to_start``, with ``start=True``: the cosine between the weights and those before the first step.
    - ``train/effective_lr``: ``lr / ||W||^2`` (eq. 4), for SGD alone: steps of other optimizers, and those whose
      size the norm fixer sets (by angle, Hyperball, rotational), do not scale like this.

    An iteration without a step (gradients are accumulated, or a loss scaler skips it) has no angles and no
    ``radial_share``. With several steps in an iteration they are of the last one. ``weight_norm/<name>`` and
    ``angle/<name>`` of each tensor go only to the message hub and the vis backends. The text of a log line has 4
    decimals, the files of the vis backends have all digits.

    Without norm fixing the set is all conv and, with ``fc``, FC weights, so that curves can be compared to a run with
    weight decay (Fig. 1). Changes nothing.

    Args:
        interval (int): Iterations between two measurements. Defaults to 50.
        per_layer (bool): Whether to report each tensor as well. Defaults to True.
        fc (bool): Without norm fixing, whether FC weights count. Defaults to True.
        angle (bool): Whether to measure the step: the angles and ``radial_share``. A measured step needs a copy of the
            set until it has ended. Defaults to True.
        start (bool): Whether to log ``cosine_to_start``. The weights at the start, a copy of the set, then stay in
            memory and are in every checkpoint, so that a resumed run continues the curve. Defaults to False.
            Two exceptions are reported, and the resumed run logs no cosine: a checkpoint without them, and sharded
            weights, whose start is not saved.

    Raises:
        ConfigError: At the first measurement, if the model has no weight to measure, or the run several optimizers; on
            resume, if the weights at the start are not those of this model.
    """

    priority = 'NORMAL'
    measured = (
        'weight_norm',
        'angle',
        'angle_median',
        'angle_largest',
        'radial_share',
        'cosine_to_start',
        'effective_lr',
    )

    def __init__(
        self, interval: int = 50, per_layer: bool = True, fc: bool = True, angle: bool = True, start: bool = False
    ) -> None:
        self.interval = interval
        self.per_layer = per_layer
        self.fc = fc
        self.angle = angle
        self.start = start
        self._meter = StepMeter()
        self._armed: list[str] = []
        self._largest = ''
        self._start: dict[str, Tensor] | None = None
        self._resumed: Mapping[str, Tensor] | None = None
        self._start_is_lost = False
        self._start_is_sharded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not (self.start and runner._resume):
            return
        self._resumed = checkpoint.get(_START)
        if self._resumed is None:
            self._start_is_lost = True
            print_log(
                'WeightNormLoggerHook: the checkpoint does not have the weights at the start of its run, so '
                'cosine_to_start is not logged',
                logger='current',
                level=logging.WARNING,
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._start is not None and not self._start_is_sharded:
            checkpoint[_START] = {name: tensor.cpu() for name, tensor in self._start.items()}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        if self.start and self._start is None and not self._start_is_lost:
            self._take_start(runner)
        if self.angle and self._is_measured(runner, batch_idx):
            named = self._set(runner)
            self._meter.install(optimizer_of(runner), [norm_fixer for norm_fixer, _ in norm_fixers_of(runner)])
            self._meter.arm([*named.values()])
            self._armed = [*named]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        if not self._is_measured(runner, batch_idx):
            return
        named = self._set(runner)
        norm = global_norm([*named.values()]).item()
        scalars = {'weight_norm': norm}
        step = self._meter.read()
        if step is not None:
            scalars |= self._of_step(runner, step)
        if self._start is not None:
            starts = self._start
            scalars['cosine_to_start'] = joint_cosine([*named.values()], [starts[name] for name in named]).item()
        lr = self._lr_of_sgd(runner, next(iter(named.values())))
        if lr is not None:
            scalars['effective_lr'] = lr / norm**2
        self.log_measured(runner, scalars)
        if self.per_layer:
            self._report_layers(runner, named, [] if step is None else step.layers)

    def _of_step(self, runner: Runner, step: StepAngles) -> dict[str, float]:
        name, largest = self._armed[step.largest], step.layers[step.largest]
        if largest > _EQUAL * step.median and name != self._largest:
            self._largest = name
            text = f'Iteration {runner.iter + 1}: the step turned {name} most of all weights, by {largest:.3g} rad'
            print_log(text, logger='current')
        share = {} if step.radial_share is None else {'radial_share': step.radial_share}
        return {'angle': step.joint, 'angle_median': step.median, 'angle_largest': largest, **share}

    def _report_layers(self, runner: Runner, named: Mapping[str, Tensor], angles: Sequence[float]) -> None:
        norms = torch.stack([global_norm([t]) for t in named.values()]).tolist()
        scalars = {f'weight_norm/{name}': value for name, value in zip(named, norms, strict=True)}
        if angles:
            scalars |= {f'angle/{name}': value for name, value in zip(self._armed, angles, strict=True)}
        for name, value in scalars.items():
            runner.message_hub.update_scalar(name, value)
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def _is_measured(self, runner: Runner, batch_idx: int) -> bool:
        return self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(
            runner.train_dataloader, batch_idx
        )

    def _take_start(self, runner: Runner) -> None:
        """Copy the weights that are or may join the set, or take the copies of the run that is resumed."""
        model, optimizer = unwrapped_model(runner), optimizer_of(runner)
        names = {id(param): name for name, param in model.named_parameters()}
        fixed = {names[id(t)]: t for t in places(optimizer, FLAG, WAITING).values()}
        named = fixed or dict(norm_fixing_parameters(model, fc=self.fc, frozen=True))
        self._start_is_sharded = any(shard_key(tensor) is not None for tensor in named.values())
        if self._resumed is None:
            self._start = {name: local_part(tensor).detach().clone() for name, tensor in named.items()}
            return
        other = [n for n, t in named.items() if n not in self._resumed or self._resumed[n].shape != t.shape]
        if other:
            raise ConfigError(
                f'WeightNormLoggerHook: the checkpoint does not have the start of {len(other)} weights of this model '
                f'({", ".join(other[:3])}, ...): resume with the config of its run, or set start=False'
            )
        self._start = {name: self._resumed[name].to(tensor.device) for name, tensor in named.items()}
        self._resumed = None

    def _set(self, runner: Runner) -> dict[str, Tensor]:
        model, optimizer = unwrapped_model(runner), optimizer_of(runner)
        names = {id(param): name for name, param in model.named_parameters()}
        fixed = {names[id(t)]: t for t in flagged(optimizer)}
        named = fixed or dict(norm_fixing_parameters(model, fc=self.fc))
        if not named:
            raise ConfigError('WeightNormLoggerHook: the model has no trainable conv or FC weight to measure')
        return named

    def _lr_of_sgd(self, runner: Runner, weight: Tensor) -> float | None:
        """Return the learning rate of a weight; None if its step is not that of plain SGD."""
        optimizer = optimizer_of(runner)
        if not isinstance(optimizer, SGD) or any(
            isinstance(norm_fixer, ProposalNormFixer) for norm_fixer, _ in norm_fixers_of(runner)
        ):
            return None
        return float(next(group['lr'] for group in optimizer.param_groups if any(p is weight for p in group['params'])))
