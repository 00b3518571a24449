# LARS (You et al. 2017): each weight steps by a share of its own norm. Norm layers and biases, which it leaves out,
# have neither weight decay nor that share, and a learning rate of their own: 0.025 times the other, as 0.2 to 8.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(
    constructor='DecayedGroupsOptimWrapperConstructor',
    optimizer=dict(type='LARS', lr=8.0),
    paramwise_cfg=dict(groups=dict(no_decay=dict(lr_mult=0.025, lars_exclude=True))),
)
search = dict(lr_range=(1.0, 64.0))
