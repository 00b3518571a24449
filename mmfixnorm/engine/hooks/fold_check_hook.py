"""Refuses a checkpoint with FixNorm layers in a model with plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.data_checks.coco import listing
from mmfixnorm.engine.hooks.fix_norm_hook import unwrapped_model
from mmfixnorm.errors import ConfigError


@HOOKS.register_module()
class FoldCheckHook(Hook):
    """Refuses to test a checkpoint that has the scale of a layer for which the model has a plain one.

    Without its scale the weight of such a layer is loaded as it is, and the scores are wrong in silence. Belongs to
    ``tools/test.py``.

    Raises:
        ConfigError: The checkpoint is not folded; the message names the layers and the command that folds it.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        state = checkpoint.get('state_dict', checkpoint)
        layers = dict(unwrapped_model(runner).named_modules())
        scales = [key.removeprefix('module.') for key in state if key.endswith('.g')]
        plain = [
            scale.removesuffix('.g')
            for scale in scales
            if isinstance(layer := layers.get(scale.removesuffix('.g')), (nn.Linear, nn.Conv2d))
            and not isinstance(layer, WeightNormalized)
        ]
        if plain:
            raise ConfigError(
                f'load_from: the checkpoint has the scale g of WN or FixNorm layers, which are plain in this config: '
                f'{listing(plain)}. Test it with the config that it was trained with, or fold it first: '
                'python tools/model_converters/fold_fixnorm.py CONFIG CHECKPOINT OUT'
            )
