# L2 shifted by epsilon (Xiang Li et al. 2019) on the convolutions; the classifier keeps its weight decay.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
custom_hooks = [*_base_.custom_hooks, dict(type='ShiftedL2Hook', weight_decay=1e-4, epsilon=1e-3)]
