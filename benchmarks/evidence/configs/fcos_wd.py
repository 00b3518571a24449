# FCOS on blood cells, with the data, schedule and backbone of the small RetinaNet.
_base_ = ['./bccd_wd.py']

model = dict(
    _delete_=True,
    type='FCOS',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=dict(type='FPN', in_channels=[32, 64, 128], out_channels=48, num_outs=3),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        strides=[4, 8, 16],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_cfg=dict(type='GN', num_groups=8),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=_base_.model.test_cfg,
)
