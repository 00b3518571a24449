_base_ = ['./mobilenet-v2-x112-tricks_wd_16xb64-350e_imagenet.py', '../_base_/search/fixnorm.py']

model = dict(backbone=dict(type='WNSEMobileNetV2'), head=dict(type='FixNormLinearClsHead', alpha=8.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.5, weight_decay=0.0),
)
