# 20 digits of each class to train on and 74 to rank on: hard enough to tell settings apart.
_base_ = [
    '../../../configs/_base_/models/resnet8_digits.py',
    '../../../configs/_base_/datasets/digits_bs64.py',
    '../../../configs/_base_/default_runtime.py',
    './sgd.py',
]

train_dataloader = dict(batch_size=32, dataset=dict(type='SubsetCustomDataset', subset=20))
val_dataloader = dict(
    dataset=dict(type='SubsetCustomDataset', data_root='data/digits/train', subset=(20, 94)),
)

# Linear warm-up of 2 epochs, then one cosine cycle; validated at the end alone.
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=40)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=2, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=2, end=40, T_max=38, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=40))
custom_hooks = []  # what they would tell is not asked for
