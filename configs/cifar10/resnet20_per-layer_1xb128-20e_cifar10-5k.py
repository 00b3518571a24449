# Algorithm 1 with a fixed norm for each convolution instead of one for all; the classifier keeps its weight decay.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    type='PerLayerFixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
