_base_ = [
    '../_base_/models/resnet8_cifar10.py',
    '../_base_/datasets/cifar10_bs64_2k.py',
    '../_base_/schedules/sgd_bs64_10e.py',
    '../_base_/default_runtime.py',
]
