"""Initial scales of weight-normalised layers in configs without norm fixing."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmfixnorm.config import HOOK_NAMES
from mmfixnorm.engine.start import fill_scales_of_run


@HOOKS.register_module(name=HOOK_NAMES['WNScaleInitHook'])
class WNScaleInitHook(Hook):
    """Sets ``g`` of every weight-normalised layer to ``||W||_F`` before training, unless it was loaded.

    For models with ``conv_cfg=dict(type='WNConv2d')`` and a stock optim wrapper: ``ConvModule`` of mmcv fills weights
    without notifying the layers. ``FixNormOptimWrapper`` and ``FixNormHook`` set the scales too; then this hook changes
    nothing.

    Raises:
        ConfigError: If a weight is all zero or not finite.
    """

    priority = 'VERY_HIGH'  # before any hook that reads or copies the scales

    def before_train(self, runner: Runner) -> None:
        fill_scales_of_run(runner.model)
