# The rotational variant of SGD (Kosson et al. 2024): each output channel of a convolution turns as in the equilibrium
# of a weight decay of 1e-4, from the first step on; the classifier keeps its weight decay.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    type='RotationalOptimWrapper',
    weight_decay=1e-4,
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0, nesterov=False),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
search = dict(lr_range=(0.1, 6.4))
