# pspnet_wd.py with FixNorm.
_base_ = ['pspnet_wd.py']
custom_imports = dict(imports=['mmfixnorm.seg'])
model = dict(
    decode_head=dict(type='FixNormPSPHead', alpha=1.0),
    auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
search = dict(
    _delete_=True,
    type='FixNormSearch',
    lr_range=(0.05, 0.8),
    metric='mIoU',
    rule='greater',
    alpha_key=['model.decode_head.alpha', 'model.auxiliary_head.alpha'],
)
