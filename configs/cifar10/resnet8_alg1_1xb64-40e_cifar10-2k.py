# Algorithm 1: the convolutions' joint norm is fixed, the classifier keeps its weight decay.
_base_ = ['./resnet8_wd_1xb64-40e_cifar10-2k.py', '../_base_/search/grid.py']

optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
