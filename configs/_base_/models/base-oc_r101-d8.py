imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
norm_cfg = dict(type='SyncBN', requires_grad=True)
ce = dict(type='CrossEntropyLoss', avg_non_ignore=True)  # the mean over labelled pixels, as in OCNet
shared = dict(num_classes=19, norm_cfg=norm_cfg, align_corners=True)  # 769 = 8 * 96 + 1 pixels: 97 points, ends kept
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True, seg_pad_val=255, size=(769, 769), **imagenet),
    backbone=dict(
        type='ResNetV1c',
        depth=101,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet101_v1c'),
    ),
    decode_head=dict(
        type='BaseOCHead',
        in_channels=2048,
        in_index=3,
        channels=512,
        dropout_ratio=0.05,
        loss_decode=dict(loss_weight=1.0, **ce),
        **shared,
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=1024,
        in_index=2,
        channels=512,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        loss_decode=dict(loss_weight=0.4, **ce),
        **shared,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(769, 769), stride=(513, 513)),
)
