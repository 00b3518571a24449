# FixNorm: convolutions and classifier share one fixed norm; g is bounded by alpha * sqrt(10).
_base_ = ['./resnet8_wd_1xb64-10e_cifar10-2k.py', '../_base_/search/fixnorm.py']

model = dict(head=dict(type='FixNormLinearClsHead', alpha=1.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
)
