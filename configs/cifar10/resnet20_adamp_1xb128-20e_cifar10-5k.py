# AdamP (Heo et al. 2021), with the learning rates and the decay of its own kind.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamP', lr=2e-3, weight_decay=1e-2))
search = dict(lr_range=(5e-4, 8e-3))
