# gfl_wd.py with FixNorm.
_base_ = ['gfl_wd.py']
custom_imports = dict(imports=['mmfixnorm.det'])

# Replaced while the model is built, as no norm takes their scale out and no config key reaches them: 1 weight-
# normalised, 1 with a bound.
model = dict(
    neck=dict(conv_cfg=dict(type='WNConv2d')),
    type='FixNormModel',
    fixnorm=dict(
        plain_type='GFL',
        alpha=1.0,
        swap={'bbox_head.gfl_cls': 'FixNormConv2d', 'bbox_head.gfl_reg': 'WNConv2d'},
    ),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
search = dict(
    _delete_=True,
    type='FixNormSearch',
    lr_range=(0.015, 0.24),
    metric='coco/bbox_mAP_50',
    rule='greater',
    alpha_key='model.fixnorm.alpha',
)
