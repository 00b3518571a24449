# Norm-bounded weight normalisation (Hoffer et al. 2018) and means of the batch, in place of batch normalisation.
# The authors clip gradients at 5 and decay the classifier alone.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
model = dict(
    backbone=dict(conv_cfg=dict(type='NormBoundedConv2d'), norm_cfg=dict(type='MeanOnlyBatchNorm2d')),
)
optim_wrapper = dict(
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.2, weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
    clip_grad=dict(max_norm=5),
)
custom_hooks = [*_base_.custom_hooks, dict(type='WNScaleInitHook')]
