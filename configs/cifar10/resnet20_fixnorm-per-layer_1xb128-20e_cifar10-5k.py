# FixNorm with a fixed norm for each weight, the one that it starts with, instead of one for all.
_base_ = ['./resnet20_fixnorm_1xb128-20e_cifar10-5k.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
optim_wrapper = dict(type='PerLayerFixNormOptimWrapper')
