# An eighth of ResNet-18's width and anchors for digits of 20 to 48 pixels. No layer is frozen and BN uses the
# statistics of the batch, so all of its convolutions are scale-invariant; the others are weight-normalised.
wn = dict(type='WNConv2d')
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.5] * 3, std=[58.0] * 3, bgr_to_rgb=True, pad_size_divisor=32
    ),
    backbone=dict(type='ResNet', depth=18, base_channels=16, out_indices=(1, 2, 3), norm_eval=False),
    neck=dict(type='FPN', in_channels=[32, 64, 128], out_channels=48, num_outs=3, conv_cfg=wn),
    bbox_head=dict(
        type='WNRetinaHead',
        num_classes=10,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        conv_cfg=wn,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=2,
            scales_per_octave=2,
            ratios=[1.6],
            strides=[8, 16, 32],
        ),
        loss_bbox=dict(type='SmoothL1Loss', beta=0.11),
        init_cfg=dict(
            type='Normal',
            layer='Conv2d',
            std=0.05,
            override=dict(type='Normal', name='retina_cls', std=0.01, bias_prob=0.01),
        ),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(nms_pre=1000, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
