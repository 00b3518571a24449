_base_ = ['./resnet50-d-tricks_wd_16xb64-350e_imagenet.py', '../_base_/search/fixnorm.py']

model = dict(backbone=dict(type='WNSEResNetV1d'), head=dict(type='FixNormLinearClsHead', alpha=1.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=1.1, weight_decay=0.0),
)
