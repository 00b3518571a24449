"""FixNorm for the OpenMMLab toolboxes: training without weight decay (Zhou, Sun and Zhong, 2021).

Importing this registers the optim wrappers, hooks and layers; ``mmfixnorm.cls`` adds what mmpretrain needs.
"""

from mmfixnorm import engine  # noqa: F401
from mmfixnorm.version import __version__

__all__ = ['__version__']
