_base_ = [
    '../_base_/models/efficientnet-b1_imagenet.py',
    '../_base_/datasets/imagenet_bs64_efficientnet-240.py',
    '../_base_/schedules/sgd_bs1024_350e.py',
    '../_base_/default_runtime.py',
    '../_base_/search/fixnorm.py',
]

model = dict(backbone=dict(type='WNEfficientNet'), head=dict(type='FixNormLinearClsHead', alpha=8.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
)
