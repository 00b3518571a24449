# The regime that fits its training set: 100 images of each class, twice the channels, no augmentation, 75 epochs.
_base_ = ['./residual_wd.py']

model = dict(backbone=dict(base_channels=24), head=dict(in_channels=96))
train_dataloader = dict(dataset=dict(dataset=dict(subset=100), batch_transforms=[]))
param_scheduler = [
    dict(begin=0, end=2.5, **_base_.warmup),
    dict(begin=2.5, end=75, T_max=72.5, **_base_.cosine),
]
train_cfg = dict(max_epochs=75, val_interval=15)
default_hooks = dict(checkpoint=dict(interval=75))
