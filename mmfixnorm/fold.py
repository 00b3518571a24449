"""Converts a checkpoint of a model with weight-normalised layers to one of the plain model, and tells the two apart."""

from __future__ import annotations

import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from mmfixnorm.core.layers import WeightNormalized, fold_layers
from mmfixnorm.data_checks.coco import listing
from mmfixnorm.data_checks.paths import check_checkpoint
from mmfixnorm.engine.hooks.fix_norm_hook import unwrapped_model
from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import build_model

__all__ = ['fold_checkpoint', 'read_checkpoint', 'write_checkpoint']

#: The errors of torch.load for a file that is truncated or not a checkpoint, or has an object of a missing package.
NO_CHECKPOINT = (
    RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, LookupError, ValueError, struct.error,
    ImportError, AttributeError,
)  # fmt: skip


def fold_checkpoint(cfg: Config, filename: str) -> dict[str, Any]:
    """Fold the WN and FixNorm layers of a checkpoint into plain ones.

    A folded layer has the weight ``g / ||W|| * W``, with ``g`` between ``-bound`` and ``bound``, and the bias;
    everything else stays as it is. With averaged weights (EMAHook) the average is folded, as evaluation sees it.

    Args:
        cfg (Config): The config of the training.
        filename (str): The checkpoint.

    Returns:
        dict: ``state_dict`` on the CPU, for the model built with plain layers, and ``meta`` with the names of
        the layers under ``'folded'``.

    Raises:
        ConfigError: If the model has no such layer, or the checkpoint belongs to another model.
    """
    model = build_model(cfg)
    layers = [name for name, module in model.named_modules() if isinstance(module, WeightNormalized)]
    if not layers:
        raise ConfigError(
            'model: it has no WN or FixNorm layer, so there is nothing to fold; pass the config that the '
            'checkpoint was trained with'
        )
    checkpoint = read_checkpoint(filename)
    state = checkpoint.get('state_dict', checkpoint)
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    scales = [f'{name}.g' for name in layers]
    if missing := [name for name in scales if name not in state]:
        raise ConfigError(
            f'{filename}: it lacks {len(missing)} of the {len(scales)} scales of WN and FixNorm layers: '
            f'{listing(missing)}; it belongs to a plain model, or to another config'
        )
    _load_into(model, state, filename)
    fold_layers(model)
    folded = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    if broken := [key for key, value in folded.items() if not _is_finite(value)]:
        raise ConfigError(f'{filename}: not finite after folding: {listing(broken)}; the training has diverged')
    meta = {key: value for key, value in checkpoint.get('meta', {}).items() if key != 'cfg'}
    return {'meta': {**meta, 'folded': layers}, 'state_dict': folded}


class FoldCheckHook(Hook):
    """Refuses a checkpoint that has the scale of a layer for which the model has a plain one.

    Without its scale the weight of such a layer is loaded as it is, and the scores are wrong in silence. Belongs to
    ``tools/test.py``; a training that starts from such weights only warns.

    Args:
        refuse (bool): Whether to raise, or to warn. Defaults to True.

    Raises:
        ConfigError: The checkpoint is not folded; the message names the layers and the command that folds it.
    """

    def __init__(self, refuse: bool = True) -> None:
        self._refuse = refuse

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        plain = unfolded_layers(unwrapped_model(runner), checkpoint.get('state_dict', checkpoint))
        if not plain:
            return
        text = (
            f'load_from: the checkpoint has the scale g of WN or FixNorm layers, which are plain in this config: '
            f'{listing(plain)}. Use it with the config that it was trained with, or fold it first: '
            'python tools/model_converters/fold_fixnorm.py CONFIG CHECKPOINT OUT'
        )
        if self._refuse:
            raise ConfigError(text)
        print_log(text, logger='current', level=logging.WARNING)


def unfolded_layers(model: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """List the layers whose scale a checkpoint has, and which are plain in the model."""
    layers, own = dict(model.named_modules()), model.state_dict()
    scales = [key.removeprefix('module.') for key in state if key.endswith('.g')]
    plain = [scale.removesuffix('.g') for scale in scales if scale not in own]
    return [name for name in plain if isinstance(layers.get(name), (nn.Linear, nn.Conv2d))]


def write_checkpoint(checkpoint: Mapping[str, Any], filename: str, *, overwrite: bool = False) -> None:
    """Write a checkpoint to a temporary file, then rename it, so that a reader never sees a part of it.

    Raises:
        ConfigError: If the file exists and ``overwrite`` is not set, or if it cannot be written.
    """
    if os.path.exists(filename) and not overwrite:
        raise ConfigError(f'{filename}: it already exists; choose another name, or replace it with --force')
    beside = f'{filename}.{os.getpid()}.tmp'
    try:
        os.makedirs(os.path.dirname(filename) or '.', exist_ok=True)
        with open(beside, 'wb') as file:
            torch.save(dict(checkpoint), file)
        os.replace(beside, filename)
    except OSError as err:
        raise ConfigError(f'{filename}: cannot be written ({err.strerror})') from err
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def read_checkpoint(filename: str) -> dict[str, Any]:
    """Read a checkpoint of this machine, onto the CPU.

    Raises:
        ConfigError: If there is no such file, or it is no checkpoint.
    """
    check_checkpoint(filename)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location='cpu')
    except NO_CHECKPOINT as err:
        raise ConfigError(f'{filename}: not a checkpoint ({type(err).__name__}: {err})') from err
    if not isinstance(checkpoint, dict):
        raise ConfigError(f'{filename}: a checkpoint is a dict with state_dict, got {type(checkpoint).__name__}')
    return checkpoint


def _load_into(model: nn.Module, state: Mapping[str, Any], filename: str) -> None:
    try:
        # By torch's own method, as some toolboxes override it leniently.
        nn.Module.load_state_dict(model, state, strict=True)
    except RuntimeError as err:  # lists missing and unexpected keys and wrong shapes
        raise ConfigError(f'{filename}: it does not fit the model of the config: {err}') from err


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
