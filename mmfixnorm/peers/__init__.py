"""Other methods that control the norm of scale-invariant weights, each a config option, for comparison at equal cost.

Register them by ``custom_imports = dict(imports=['mmfixnorm.peers'])``. docs/peers.md has the table.
"""

import mmfixnorm.engine  # noqa: F401  # registers optim wrappers, hooks and layers
from mmfixnorm.peers.bounded_weight_norm import MeanOnlyBatchNorm2d, NormBoundedConv2d
from mmfixnorm.peers.decayed_groups import DecayedGroupsOptimWrapperConstructor
from mmfixnorm.peers.exponential_lr import ExponentialGrowthLR
from mmfixnorm.peers.hyperball import HyperballAmpOptimWrapper, HyperballNormFixer, HyperballOptimWrapper
from mmfixnorm.peers.lr_correction import LRCorrectionHook, PerLayerGroupsOptimWrapperConstructor
from mmfixnorm.peers.optimizers import build_adamc, build_adamp, build_muon, build_sgdp
from mmfixnorm.peers.per_layer import PerLayerFixNormAmpOptimWrapper, PerLayerFixNormOptimWrapper, TensorNormFixer
from mmfixnorm.peers.rotational import (
    RotationalAmpOptimWrapper,
    RotationalNormFixer,
    RotationalOptimWrapper,
    equilibrium_angle,
)
from mmfixnorm.peers.shifted_l2 import ShiftedL2Hook

__all__ = [
    'DecayedGroupsOptimWrapperConstructor',
    'ExponentialGrowthLR',
    'HyperballAmpOptimWrapper',
    'HyperballNormFixer',
    'HyperballOptimWrapper',
    'LRCorrectionHook',
    'MeanOnlyBatchNorm2d',
    'NormBoundedConv2d',
    'PerLayerFixNormAmpOptimWrapper',
    'PerLayerFixNormOptimWrapper',
    'PerLayerGroupsOptimWrapperConstructor',
    'RotationalAmpOptimWrapper',
    'RotationalNormFixer',
    'RotationalOptimWrapper',
    'ShiftedL2Hook',
    'TensorNormFixer',
    'build_adamc',
    'build_adamp',
    'build_muon',
    'build_sgdp',
    'equilibrium_angle',
]
