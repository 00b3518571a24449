_base_ = ['./residual_wd.py']

custom_imports = dict(imports=[*_base_.custom_imports.imports, 'mmfixnorm.peers'])
optim_wrapper = dict(optimizer=dict(type='SGDP'))
# Its view of a weight as rows does not work in the channels_last layout, which computes the same.
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'ChannelsLastHook']
