_base_ = ['./residual_fixnorm.py']

param_scheduler = [dict(begin=0, end=15, T_max=15, **_base_.cosine)]
