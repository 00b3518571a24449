_base_ = [
    '../_base_/models/resnet8_digits.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/sgd_bs64_20e.py',
    '../_base_/default_runtime.py',
]

# 16 iterations per epoch
default_hooks = dict(logger=dict(interval=16), checkpoint=dict(interval=4))
