"""Converts a plain config of a toolbox to a small FixNorm child config, and audits the model of a config."""

from mmfixnorm.convert.audit import ConfigAudit, audit_config
from mmfixnorm.convert.converter import Conversion, convert

__all__ = ['ConfigAudit', 'Conversion', 'audit_config', 'convert']
