"""The method in plain PyTorch: layers, norm fixing, cross-boundary risk, audit. Imports no OpenMMLab package."""

from mmfixnorm.core.audit import AuditReport, GroupRecord, WeightRecord, audit
from mmfixnorm.core.cross_boundary_risk import cross_boundary_risk
from mmfixnorm.core.layers import (
    FixNormConv2d,
    FixNormLinear,
    WeightNormalized,
    WNConv2d,
    WNLinear,
    fill_scales,
    fold_layers,
)
from mmfixnorm.core.norm_fixing import (
    NormFixer,
    fix_norm,
    global_norm,
    norm_fixing_parameters,
)
from mmfixnorm.core.stored_statistics import stored_statistics_layers

__all__ = [
    'AuditReport',
    'FixNormConv2d',
    'FixNormLinear',
    'GroupRecord',
    'NormFixer',
    'WNConv2d',
    'WNLinear',
    'WeightNormalized',
    'WeightRecord',
    'audit',
    'cross_boundary_risk',
    'fill_scales',
    'fix_norm',
    'fold_layers',
    'global_norm',
    'norm_fixing_parameters',
    'stored_statistics_layers',
]
