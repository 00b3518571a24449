"""A RetinaNet that trains in seconds on the pictures of data.py, which are in ``data``."""

_base_ = ['../../configs/_base_/det_runtime.py']

wn = dict(type='WNConv2d')
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.5] * 3, std=[58.0] * 3, bgr_to_rgb=True),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        out_indices=(1, 2),
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        norm_eval=False,
    ),
    neck=dict(type='FPN', in_channels=[16, 32], out_channels=16, num_outs=2, conv_cfg=wn),
    bbox_head=dict(
        type='FixNormRetinaHead',
        alpha=1.0,
        num_classes=2,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        conv_cfg=wn,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1, ratios=[1.0], strides=[8, 16]
        ),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
)

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
common = dict(type='CocoDataset', data_root='data', metainfo=dict(classes=('red', 'blue')), pipeline=pipeline)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(ann_file='train.json', data_prefix=dict(img='train'), filter_cfg=dict(filter_empty_gt=True), **common),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='val.json', data_prefix=dict(img='val'), test_mode=True, **common),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='data/val.json', metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, nesterov=True),
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, begin=0, end=4, milestones=[3])]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=2))
