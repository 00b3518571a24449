# What fine-tuning begins with: the backbone of bccd_wd.py, trained on 20,000 images of CIFAR-10 at 64 pixels.
_base_ = ['./cifar10.py']

resize = dict(type='Resize', scale=(64, 64))
load = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]
batch_transforms = [dict(type='BatchRandomCrop', crop_size=64, padding=8), dict(type='BatchRandomFlip', prob=0.5)]
train_dataloader = dict(
    dataset=dict(dataset=dict(subset=2000, pipeline=load), batch_transforms=batch_transforms),
)
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=load)))
test_dataloader = dict(dataset=dict(dataset=dict(pipeline=load)))

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=10, mean=[127.5] * 3, std=[58.0] * 3, to_rgb=True),
    backbone=dict(type='mmdet.ResNet', depth=18, base_channels=16, strides=(1, 1, 2, 2), norm_eval=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128, loss=dict(type='CrossEntropyLoss')),
)
param_scheduler = [{**_base_.param_scheduler[0]}, {**_base_.param_scheduler[1], 'end': 10, 'T_max': 9}]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(interval=10))
