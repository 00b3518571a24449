"""An FCN that trains in seconds on the masks of data.py, which are in ``data``."""

_base_ = ['../../configs/_base_/seg_runtime.py']

bn = dict(type='BN')
head = dict(in_index=1, channels=16, num_convs=1, concat_input=False, dropout_ratio=0.0, num_classes=3, norm_cfg=bn)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[58.0] * 3, bgr_to_rgb=True, size=(64, 64), seg_pad_val=255
    ),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
        base_channels=8,
        stem_channels=8,
        norm_cfg=bn,
        norm_eval=False,
    ),
    decode_head=dict(type='FixNormFCNHead', alpha=1.0, in_channels=16, **head),
    auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0, in_channels=8, **dict(head, in_index=0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_pipeline = train_pipeline
common = dict(
    type='BaseSegDataset',
    data_root='data',
    img_suffix='.png',
    metainfo=dict(classes=('ground', 'red', 'blue'), palette=[[0, 200, 0], [200, 0, 0], [0, 0, 200]]),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix=dict(img_path='img/train', seg_map_path='ann/train'), pipeline=train_pipeline, **common),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix=dict(img_path='img/val', seg_map_path='ann/val'), pipeline=test_pipeline, **common),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True),
)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=4, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=2))
