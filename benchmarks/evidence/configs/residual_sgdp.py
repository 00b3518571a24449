_base_ = ['./residual_wd.py']

custom_imports = dict(imports=[*_base_.custom_imports.imports, 'mmfixnorm.peers'])
optim_wrapper = dict(optimizer=dict(type='SGDP'))
