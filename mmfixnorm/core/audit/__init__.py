"""The audit: which weights of a model are scale-invariant, the precondition of norm fixing."""

from mmfixnorm.core.audit.experiment import audit
from mmfixnorm.core.audit.report import AuditReport, GroupRecord, WeightRecord

__all__ = ['AuditReport', 'GroupRecord', 'WeightRecord', 'audit']
