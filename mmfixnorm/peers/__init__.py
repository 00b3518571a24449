"""Other methods that control the norm of scale-invariant weights, each a config option, for comparison at equal cost.

Register them by ``custom_imports = dict(imports=['mmfixnorm.peers'])``. docs/peers.md has the table.
"""

import mmfixnorm.engine  # noqa: F401  # registers optim wrappers, hooks and layers
from mmfixnorm.peers.bounded_weight_norm import MeanOnlyBatchNorm2d, NormBoundedConv2d
from mmfixnorm.peers.exponential_lr import ExponentialGrowthLR
from mmfixnorm.peers.lr_correction import LRCorrectionHook, PerLayerGroupsOptimWrapperConstructor
from mmfixnorm.peers.per_layer import PerLayerFixNormAmpOptimWrapper, PerLayerFixNormOptimWrapper, TensorNormFixer
from mmfixnorm.peers.projected import build_adamp, build_sgdp
from mmfixnorm.peers.shifted_l2 import ShiftedL2Hook

__all__ = [
    'ExponentialGrowthLR',
    'LRCorrectionHook',
    'MeanOnlyBatchNorm2d',
    'NormBoundedConv2d',
    'PerLayerFixNormAmpOptimWrapper',
    'PerLayerFixNormOptimWrapper',
    'PerLayerGroupsOptimWrapperConstructor',
    'ShiftedL2Hook',
    'TensorNormFixer',
    'build_adamp',
    'build_sgdp',
]
