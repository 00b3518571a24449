# AdamC (Defazio 2025): the decay of convolutions follows the square of the schedule, the classifier decays as in AdamW.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    constructor='DecayedGroupsOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamC', lr=2e-3, weight_decay=1e-2),
    paramwise_cfg=dict(lambda_fc=1e-2, groups=dict(norm_fixing=dict(normalized=True))),
)
search = dict(lr_range=(2.5e-4, 1.6e-2))
