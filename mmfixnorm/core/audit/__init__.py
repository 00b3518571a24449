"""Measures which weights of a model are scale-invariant, the precondition of norm fixing."""

from mmfixnorm.core.audit.experiment import AuditReport, GroupRecord, WeightRecord, audit

__all__ = ['AuditReport', 'GroupRecord', 'WeightRecord', 'audit']
