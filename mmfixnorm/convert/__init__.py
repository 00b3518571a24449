"""From a plain config of a toolbox to a small child config that trains it with FixNorm."""

from mmfixnorm.convert.converter import Conversion, convert

__all__ = ['Conversion', 'convert']
