# AdamW with weight decay.
_base_ = [
    '../_base_/models/deit-thin_cifar10.py',
    '../_base_/datasets/cifar10_in-memory_bs128.py',
    '../_base_/schedules/adamw_bs128_20e.py',
    '../_base_/default_runtime.py',
    '../_base_/search/grid.py',
]

# 500 images per class of the 4500, as for ResNet20
train_dataloader = dict(dataset=dict(dataset=dict(subset=500)))
search = dict(lr_range=(2.5e-4, 0.016))
