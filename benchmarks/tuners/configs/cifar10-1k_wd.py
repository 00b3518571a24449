# 100 images of each class to train on and 200 others to rank on, at half their size.
_base_ = [
    '../../../configs/_base_/models/resnet8_cifar10.py',
    '../../../configs/_base_/datasets/cifar10_bs64_2k.py',
    '../../../configs/_base_/default_runtime.py',
    './sgd.py',
]

model = dict(backbone=dict(base_channels=8), head=dict(in_channels=32))
half = dict(type='Resize', scale=16)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    half,
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), half, dict(type='PackInputs')]
train_dataloader = dict(batch_size=32, num_workers=0, dataset=dict(subset=100, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))

# Linear warm-up of 1 epoch, then one cosine cycle; validated at the end alone.
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=15)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=15, T_max=14, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=15))
custom_hooks = []  # what they would tell is not asked for
