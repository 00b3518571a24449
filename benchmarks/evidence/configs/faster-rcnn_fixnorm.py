# faster-rcnn_wd.py with FixNorm.
_base_ = ['faster-rcnn_wd.py']
custom_imports = dict(imports=['mmfixnorm.det'])

# Replaced while the model is built, as no norm takes their scale out and no config key reaches them: 6 weight-
# normalised, 1 with a bound.
model = dict(
    neck=dict(conv_cfg=dict(type='WNConv2d')),
    type='FixNormModel',
    fixnorm=dict(
        plain_type='FasterRCNN',
        alpha=1.0,
        swap={
            'roi_head.bbox_head.fc_cls': 'FixNormLinear',
            r'rpn_head\..*': 'WNConv2d',
            r'roi_head\.bbox_head\.shared_fcs\..*': 'WNLinear',
            'roi_head.bbox_head.fc_reg': 'WNLinear',
        },
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
