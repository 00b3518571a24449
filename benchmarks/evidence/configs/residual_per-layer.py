# Each weight keeps its own norm.
_base_ = ['./residual_fixnorm.py']

custom_imports = dict(imports=[*_base_.custom_imports.imports, 'mmfixnorm.peers'])
optim_wrapper = dict(type='PerLayerFixNormOptimWrapper')
