"""The method in plain PyTorch: layers, norm fixing, cross-boundary risk, audit. Imports no OpenMMLab package.

Exported here: what a training script calls. Everything else is imported from its module.
"""

from mmfixnorm.core.audit import AuditReport, audit
from mmfixnorm.core.cross_boundary_risk import cross_boundary_risk
from mmfixnorm.core.layers import (
    FixNormConv2d,
    FixNormLinear,
    WeightNormalized,
    WNConv2d,
    WNLinear,
    fill_scales,
    fold_layers,
    replace_layers,
)
from mmfixnorm.core.norm_fixing import NormFixer, norm_fixing_parameters
from mmfixnorm.core.plain_loop import fix_norm
from mmfixnorm.core.rotation import AngleNormFixer

__all__ = [
    'AngleNormFixer',
    'AuditReport',
    'FixNormConv2d',
    'FixNormLinear',
    'NormFixer',
    'WNConv2d',
    'WNLinear',
    'WeightNormalized',
    'audit',
    'cross_boundary_risk',
    'fill_scales',
    'fix_norm',
    'fold_layers',
    'norm_fixing_parameters',
    'replace_layers',
]
