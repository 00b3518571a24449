"""FixNorm for the OpenMMLab toolboxes: training without weight decay (Zhou, Sun and Zhong, 2021).

Importing this registers nothing and loads no torch. ``mmfixnorm.engine`` registers optim wrappers, hooks and layers.
``mmfixnorm.cls``, ``mmfixnorm.det`` and ``mmfixnorm.seg`` import it and add the heads of one toolbox each. In a
config: ``custom_imports = dict(imports=['mmfixnorm.cls'])``.
"""

from mmfixnorm.version import __version__

__all__ = ['__version__']
