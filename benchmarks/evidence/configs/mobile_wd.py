_base_ = ['./residual_wd.py']

model = dict(
    backbone=dict(_delete_=True, type='ShallowMobileNetV2', widen_factor=0.5, out_indices=(4,)),
    head=dict(in_channels=1280),
)
# 10 epochs: two thirds of the residual network's.
param_scheduler = [
    dict(begin=0, end=1, **_base_.warmup),
    dict(begin=1, end=10, T_max=9, **_base_.cosine),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(interval=10))
