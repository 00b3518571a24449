_base_ = ['./mobilenet-v2_wd_16xb64-150e_imagenet.py', '../_base_/search/fixnorm.py']

model = dict(head=dict(type='FixNormLinearClsHead', alpha=16.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.5, weight_decay=0.0),
)
