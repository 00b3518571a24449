"""FixNorm in mmpretrain: heads, backbones and datasets, registered on import."""

try:
    import mmpretrain  # noqa: F401
except ImportError as err:
    raise ImportError(
        'mmfixnorm.cls needs mmpretrain: pip install "mmfixnorm[onedl]" (onedl-mmpretrain), or '
        '"mmfixnorm[openmmlab]" for the classic packages'
    ) from err

from mmfixnorm.cls.backbones import MobileNetV2CIFAR, ThinResNetCIFAR
from mmfixnorm.cls.datasets import SubsetCustomDataset
from mmfixnorm.cls.heads import FixNormLinearClsHead, WNLinearClsHead

__all__ = ['FixNormLinearClsHead', 'MobileNetV2CIFAR', 'SubsetCustomDataset', 'ThinResNetCIFAR', 'WNLinearClsHead']
