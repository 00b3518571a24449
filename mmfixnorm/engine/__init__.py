"""FixNorm in mmengine: optim wrappers, their constructor, hooks, and the layers in the root registry.

Importing this package registers all of them. Exported here: the classes that a config names.
"""

from mmengine.registry import MODELS

import mmfixnorm.engine.replace_layers  # noqa: F401  # registers the model type FixNormModel
from mmfixnorm.core.layers import FixNormConv2d, FixNormLinear, WNConv2d, WNLinear
from mmfixnorm.engine.hooks.auto_alpha_hook import AutoAlphaHook
from mmfixnorm.engine.hooks.class_check_hook import ClassCheckHook
from mmfixnorm.engine.hooks.cross_boundary_risk_hook import CrossBoundaryRiskHook
from mmfixnorm.engine.hooks.ema_hook import FixNormEMAHook
from mmfixnorm.engine.hooks.epoch_seed_hook import EpochSeedHook
from mmfixnorm.engine.hooks.fix_norm_hook import FixNormHook
from mmfixnorm.engine.hooks.update_param_scheduler_hook import UpdateParamSchedulerHook
from mmfixnorm.engine.hooks.weight_norm_logger_hook import WeightNormLoggerHook
from mmfixnorm.engine.hooks.wn_scale_init_hook import WNScaleInitHook
from mmfixnorm.engine.optim_wrapper import FixNormAmpOptimWrapper, FixNormOptimWrapper
from mmfixnorm.engine.optim_wrapper_constructor import FixNormOptimWrapperConstructor

# The root registry is the one that `conv_cfg=dict(type='WNConv2d')` of every toolbox falls back to.
for _layer in (WNLinear, WNConv2d, FixNormLinear, FixNormConv2d):
    MODELS.register_module(module=_layer)

__all__ = [
    'AutoAlphaHook',
    'ClassCheckHook',
    'CrossBoundaryRiskHook',
    'EpochSeedHook',
    'FixNormAmpOptimWrapper',
    'FixNormEMAHook',
    'FixNormHook',
    'FixNormOptimWrapper',
    'FixNormOptimWrapperConstructor',
    'UpdateParamSchedulerHook',
    'WNScaleInitHook',
    'WeightNormLoggerHook',
]
