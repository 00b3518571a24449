"""FixNorm in mmpretrain: heads, backbones and datasets, registered on import."""

try:
    import mmpretrain  # noqa: F401
except ImportError as err:
    raise ImportError(
        'mmfixnorm.cls needs mmpretrain: pip install "mmfixnorm[onedl]" (onedl-mmpretrain), or '
        '"mmfixnorm[openmmlab]" for the classic packages'
    ) from err

import mmfixnorm.engine  # noqa: F401  # registers optim wrappers, hooks and layers
from mmfixnorm.cls.backbones import MobileNetV2CIFAR, ThinResNetCIFAR
from mmfixnorm.cls.datasets import SubsetCustomDataset
from mmfixnorm.cls.heads import FixNormLinearClsHead, WNLinearClsHead
from mmfixnorm.cls.in_memory import BatchRandomCrop, BatchRandomFlip, InMemoryDataset
from mmfixnorm.cls.necks import GlobalAveragePoolingDropout
from mmfixnorm.cls.squeeze_excitation import (
    SEMobileNetV2,
    SEResNetV1d,
    WNEfficientNet,
    WNSEMobileNetV2,
    WNSEResNetV1d,
)

__all__ = [
    'BatchRandomCrop',
    'BatchRandomFlip',
    'FixNormLinearClsHead',
    'GlobalAveragePoolingDropout',
    'InMemoryDataset',
    'MobileNetV2CIFAR',
    'SEMobileNetV2',
    'SEResNetV1d',
    'SubsetCustomDataset',
    'ThinResNetCIFAR',
    'WNEfficientNet',
    'WNLinearClsHead',
    'WNSEMobileNetV2',
    'WNSEResNetV1d',
]
