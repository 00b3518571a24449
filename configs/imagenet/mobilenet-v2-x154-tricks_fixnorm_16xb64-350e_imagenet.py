_base_ = ['./mobilenet-v2-x154-tricks_wd_16xb64-350e_imagenet.py', '../_base_/search/fixnorm.py']

model = dict(backbone=dict(type='WNSEMobileNetV2'), head=dict(type='FixNormLinearClsHead', alpha=4.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.65, weight_decay=0.0),
)
