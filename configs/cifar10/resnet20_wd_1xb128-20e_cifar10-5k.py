_base_ = [
    '../_base_/models/resnet20_cifar10.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/sgd_bs128_20e.py',
    '../_base_/default_runtime.py',
]

# 500 images per class of the 4500: a full training in minutes on two cores
train_dataloader = dict(dataset=dict(subset=500))
