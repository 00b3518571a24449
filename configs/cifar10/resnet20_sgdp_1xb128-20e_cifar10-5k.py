# SGDP (Heo et al. 2021): no radial part in the steps of scale-invariant weights; these decay by a tenth.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(optimizer=dict(type='SGDP', lr=0.8))
