# fcos_wd.py with FixNorm.
_base_ = ['fcos_wd.py']
custom_imports = dict(imports=['mmfixnorm.det'])
model = dict(neck=dict(conv_cfg=dict(type='WNConv2d')), bbox_head=dict(type='FixNormFCOSHead', alpha=1.0))
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
    alpha_key='model.bbox_head.alpha',
)
