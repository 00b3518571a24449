# uper_wd.py with FixNorm.
_base_ = ['uper_wd.py']
custom_imports = dict(imports=['mmfixnorm.seg'])

# Replaced while the model is built, as no norm takes their scale out and no config key reaches them: 0 weight-
# normalised, 1 with a bound.
model = dict(
    auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0),
    type='FixNormModel',
    fixnorm=dict(plain_type='EncoderDecoder', alpha=1.0, swap={'decode_head.conv_seg': 'FixNormConv2d'}),
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
    alpha_key=['model.auxiliary_head.alpha', 'model.fixnorm.alpha'],
)
