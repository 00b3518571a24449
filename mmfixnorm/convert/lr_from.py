"""The learning rate of a converted config from the checkpoint that its base arrived at."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from mmfixnorm.convert.angle import schedule_for_lr
from mmfixnorm.convert.audit import load_weights
from mmfixnorm.core.audit.probe import preserve_random_state
from mmfixnorm.core.norms import global_norm
from mmfixnorm.data_checks.coco import listing
from mmfixnorm.errors import ConfigError
from mmfixnorm.fold import read_checkpoint
from mmfixnorm.launch import build_model, initialise
from mmfixnorm.type_names import type_name

__all__ = ['LearningRate', 'check_lr_from', 'lr_from_checkpoint']


@dataclass(frozen=True)
class LearningRate:
    """A learning rate with the numbers that it was computed from.

    Attributes:
        base: The learning rate of the base config.
        start_norm: ``||W_0||``, the joint norm of the set when the child starts.
        final_norm: ``||W_ckpt||``, the joint norm of the same tensors in the checkpoint.
        start: Where the weights of the start come from, in words.
        checkpoint: The checkpoint, as it was given.
        num_weights: The number of weights in the set.
    """

    base: float
    start_norm: float
    final_norm: float
    start: str
    checkpoint: str
    num_weights: int

    @property
    def lr(self) -> float:
        """``base * (start_norm / final_norm)^2``, in three digits."""
        return float(f'{self.base * (self.start_norm / self.final_norm) ** 2:.3g}')

    @property
    def comment(self) -> str:
        """The numbers in a sentence."""
        return (
            f'lr: {self.base:g} * ({self.start_norm:.4g} / {self.final_norm:.4g})^2 = {self.lr:g}. So lr / ||W||^2 is '
            f'that of the base at its end: the {self.num_weights} weights of the set start with the norm '
            f'{self.start_norm:.4g} ({self.start}) and keep it; in {self.checkpoint} they have {self.final_norm:.4g}.'
        )


def check_lr_from(cfg: Config, update: str, checkpoint: str) -> None:
    """Refuse what has no such learning rate before anything is built.

    Raises:
        ConfigError: If the optimizer of the plain config is not SGD, whose steps alone follow ``lr / ||W||^2``, if
            ``update`` is ``'angle'``, a scheduler is unknown, or the checkpoint cannot be read or comes from a run with
            norm fixing.
    """
    if update == 'angle':
        raise ConfigError(
            '--lr-from: with --update angle the learning rate is the angle itself, which no norm changes; '
            'leave out one of the two'
        )
    kind = type_name(cfg.optim_wrapper.optimizer['type'], OPTIMIZERS, cfg.get('default_scope'))
    if kind != 'SGD':
        raise ConfigError(
            f'--lr-from: lr / ||W||^2 is the effective learning rate of SGD alone, optim_wrapper.optimizer.type is '
            f'{kind!r}; leave out --lr-from and search the learning rate'
        )
    schedule_for_lr(cfg, cfg.optim_wrapper.optimizer.lr)
    _trained_weights(checkpoint)


def lr_from_checkpoint(child: Config, in_set: Sequence[str], checkpoint: str, base_lr: float) -> LearningRate:
    r"""Find the learning rate with which the child makes steps as large as those of its base at its end.

    The gradient of a scale-invariant weight goes with :math:`1 / \|W\|`, so a step of SGD turns it by an angle that
    goes with :math:`lr / \|W\|^2`, its effective learning rate (van Laarhoven 2017, Hoffer et al. 2018). Under weight
    decay :math:`\|W\|` moves to where decay and steps balance; the norm of the checkpoint is what the training arrived
    at, and its effective learning rate :math:`lr_{wd} / \|W_{ckpt}\|^2`, times the schedule. Norm fixing keeps
    :math:`\|W_0\|`. Both are equal with

    .. math:: lr = lr_{wd}\, (\|W_0\| / \|W_{ckpt}\|)^2

    under the same schedule, batch size and momentum. It is a start, not the best learning rate: the base may not be
    tuned, its norm may not have settled, so that its steps were larger or smaller before its end, the layers share the
    joint norm in other parts than in the checkpoint, and the classifier and layers that become weight-normalised were
    not scale-invariant in the base.

    Args:
        child (Config): The FixNorm config. Its model is initialised with seed 0, and loads what its ``init_cfg`` and
            ``load_from`` name, as a training does.
        in_set (Sequence[str]): Names of the weights in its norm-fixing set.
        checkpoint (str): A checkpoint of the base config. One with averaged weights has the trained ones too, and
            those count.
        base_lr (float): The learning rate of the base.

    Raises:
        ConfigError: If the checkpoint cannot be read, lacks a weight of the set or has it in another shape, comes from
            a run with norm fixing, or a norm is 0 or not finite; or if the weights that the child starts from cannot
            be loaded.
    """
    final = _trained_weights(checkpoint)
    with preserve_random_state():
        set_random_seed(0)
        model, start = _started_model(child)
    weights = {name: model.get_parameter(name) for name in in_set}
    if missing := [name for name in weights if name not in final]:
        raise ConfigError(
            f'--lr-from {checkpoint}: it lacks {len(missing)} of the {len(weights)} weights of the norm-fixing set: '
            f'{listing(missing)}; give a checkpoint that a training of the base config wrote'
        )
    for name, weight in weights.items():
        if final[name].shape != weight.shape:
            raise ConfigError(
                f'--lr-from {checkpoint}: {name} has the shape {tuple(final[name].shape)} there and '
                f'{tuple(weight.shape)} in the model; give a checkpoint that a training of the base config wrote, with '
                'its own classes'
            )
    return LearningRate(
        base=base_lr,
        start_norm=_norm([*weights.values()], f'--lr-from: the weights of the set ({start})'),
        final_norm=_norm([final[name] for name in weights], f'--lr-from {checkpoint}: the weights of the set'),
        start=start,
        checkpoint=checkpoint,
        num_weights=len(weights),
    )


def _trained_weights(filename: str) -> dict[str, Tensor]:
    try:
        checkpoint = read_checkpoint(filename)
    except ConfigError as err:
        raise ConfigError(f'--lr-from: {err}') from err
    states = [checkpoint, checkpoint.get('optimizer')]
    if any(isinstance(state, Mapping) and 'fix_norm' in state for state in states):
        raise ConfigError(
            f'--lr-from {filename}: it was written by a run with norm fixing, whose norm is the one at its start; give '
            'a checkpoint that a training of the base config wrote, with weight decay'
        )
    # EMAHook saves the average as state_dict, for evaluation, and the weights of the training beside it.
    state: Any = checkpoint.get('ema_state_dict') or checkpoint.get('state_dict', checkpoint)
    return {key.removeprefix('module.'): value for key, value in state.items() if isinstance(value, Tensor)}


def _started_model(cfg: Config) -> tuple[nn.Module, str]:
    """Build the model of a config with the weights that its training starts from; also say where they come from."""
    model: Any = build_model(copy.deepcopy(cfg))
    files = [*_pretrained(cfg.model), *([cfg.load_from] if cfg.get('load_from') else [])]
    try:
        initialise(model)
        if cfg.get('load_from'):
            load_weights(model, cfg.load_from, named_by='load_from')
    except (OSError, RuntimeError, ValueError) as err:  # a ConfigError is one too
        raise ConfigError(
            f'--lr-from: ||W_0|| is the norm of the weights that the child starts from, which cannot be loaded '
            f'({", ".join(files) or "no file is named"}): {err}; put the file there, or change load_from or init_cfg'
        ) from err
    return model, f'loaded from {", ".join(files)}' if files else 'initialised with seed 0'


def _pretrained(node: Any) -> list[str]:
    """List the checkpoints that the ``init_cfg`` or ``pretrained`` of a model and its parts name."""
    if isinstance(node, (list, tuple)):
        return [file for child in node for file in _pretrained(child)]
    if not isinstance(node, Mapping):
        return []
    found = [node['checkpoint']] if isinstance(node.get('checkpoint'), str) else []  # in init_cfg; PVT's has no type
    found += [node['pretrained']] if isinstance(node.get('pretrained'), str) else []
    found += [f'the weights of {node.get("model_name")}'] if node.get('pretrained') is True else []  # of timm
    return list(dict.fromkeys(found + [file for child in node.values() for file in _pretrained(child)]))


def _norm(tensors: Sequence[Tensor], named_by: str) -> float:
    norm = global_norm([tensor.detach().to(torch.float64) for tensor in tensors]).item()
    if not (math.isfinite(norm) and norm > 0):
        raise ConfigError(f'{named_by} must have a finite norm > 0, got {norm}')
    return norm
