"""FixNorm in mmseg: Base-OC and decode heads, registered on import."""

try:
    import mmseg  # noqa: F401
except ImportError as err:
    raise ImportError(
        'mmfixnorm.seg needs mmseg: pip install "mmfixnorm[onedl]" (onedl-mmsegmentation), or '
        '"mmfixnorm[openmmlab]" for the classic packages'
    ) from err

import mmfixnorm.engine  # noqa: F401  # registers optim wrappers, hooks and layers
from mmfixnorm.seg.heads import (
    BaseOCHead,
    FixNormBaseOCHead,
    FixNormDecodeHeadMixin,
    FixNormDepthwiseSeparableASPPHead,
    FixNormFCNHead,
    FixNormPSPHead,
)
from mmfixnorm.seg.object_context import ObjectContext, WNObjectContext

__all__ = [
    'BaseOCHead',
    'FixNormBaseOCHead',
    'FixNormDecodeHeadMixin',
    'FixNormDepthwiseSeparableASPPHead',
    'FixNormFCNHead',
    'FixNormPSPHead',
    'ObjectContext',
    'WNObjectContext',
]
