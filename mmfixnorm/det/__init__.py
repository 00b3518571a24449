"""FixNorm in mmdet: dense heads, registered on import."""

try:
    import mmdet  # noqa: F401
except ImportError as err:
    raise ImportError(
        'mmfixnorm.det needs mmdet: pip install "mmfixnorm[onedl]" (onedl-mmdetection), or '
        '"mmfixnorm[openmmlab]" for the classic packages'
    ) from err

import mmfixnorm.engine  # noqa: F401  # registers optim wrappers, hooks and layers
from mmfixnorm.det.heads import (
    FixNormDenseHeadMixin,
    FixNormFCOSHead,
    FixNormRetinaHead,
    WNDenseHeadMixin,
    WNRetinaHead,
)

__all__ = ['FixNormDenseHeadMixin', 'FixNormFCOSHead', 'FixNormRetinaHead', 'WNDenseHeadMixin', 'WNRetinaHead']
