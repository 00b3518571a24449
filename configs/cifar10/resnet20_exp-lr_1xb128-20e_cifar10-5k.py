# A learning rate that grows in place of a weight decay of 1e-4 on the convolutions (Li and Arora 2019).
# Equivalent to that decay under SGD without Nesterov; the classifier keeps its weight decay.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0, nesterov=False),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
param_scheduler = [
    *_base_.param_scheduler,
    dict(type='ExponentialGrowthLR', weight_decay=1e-4, by_epoch=False),
]
