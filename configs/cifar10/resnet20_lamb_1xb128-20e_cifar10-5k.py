# LAMB (You et al. 2020): Adam, with each weight's step a share of its own norm. Norm layers and biases step by plain
# Adam, without weight decay and with a learning rate of their own: 0.2 times the other.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    constructor='DecayedGroupsOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='Lamb', lr=1e-2, weight_decay=1e-2),
    paramwise_cfg=dict(groups=dict(no_decay=dict(lr_mult=0.2))),
)
search = dict(lr_range=(1e-3, 6.4e-2))
