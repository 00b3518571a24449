# The steps of a recorded run with weight decay without decaying (Hoffer et al. 2018); the classifier decays.
# Record it by tools/train.py with the weight-decay config, the lr below and
# --cfg-options custom_hooks.0.per_layer=True custom_hooks.0.interval=1
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    constructor='PerLayerGroupsOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='LRCorrectionHook', reference='work_dirs/resnet20_wd_1xb128-20e_cifar10-5k'),
]
