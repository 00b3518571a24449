"""FixNorm for the OpenMMLab toolboxes: training without weight decay (Zhou, Sun and Zhong, 2021).

Importing this registers the optim wrappers, hooks and layers; ``mmfixnorm.cls`` adds what mmpretrain needs.
"""

import os

from mmfixnorm.version import __version__

# The driver of a search sets it, for itself alone: it builds nothing, and without torch it has a
# tenth of the memory and starts at once.
if os.environ.get('MMFIXNORM_REGISTER') != '0':
    from mmfixnorm import engine  # noqa: F401

__all__ = ['__version__']
