# The reference is quoted by the paper: EfficientNet's own training, not the set-up of the other rows.
_base_ = [
    '../_base_/models/efficientnet-b0_imagenet.py',
    '../_base_/datasets/imagenet_bs64_efficientnet.py',
    '../_base_/schedules/rmsprop_bs1024_350e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=1e-4)]
