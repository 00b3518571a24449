_base_ = [
    '../_base_/models/efficientnet-b0_imagenet.py',
    '../_base_/datasets/imagenet_bs64_efficientnet.py',
    '../_base_/schedules/sgd_bs1024_350e.py',
    '../_base_/default_runtime.py',
    '../_base_/search/fixnorm.py',
]

model = dict(backbone=dict(type='WNEfficientNet'), head=dict(type='FixNormLinearClsHead', alpha=4.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.5, weight_decay=0.0),
)
