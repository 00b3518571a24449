imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
# Every convolution that no norm layer follows is weight-normalised, in the baseline as well (A.4.3).
wn = dict(type='WNConv2d')
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', bgr_to_rgb=True, pad_size_divisor=32, **imagenet),
    backbone=dict(
        type='ResNet',
        depth=50,
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(
        type='FPN',
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        conv_cfg=wn,
        start_level=1,
        add_extra_convs='on_input',
        num_outs=5,
    ),
    bbox_head=dict(
        type='WNRetinaHead',
        num_classes=80,
        in_channels=256,
        conv_cfg=wn,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        # Smooth L1 with the beta of Detectron, whose schedule the paper uses.
        loss_bbox=dict(type='SmoothL1Loss', beta=0.11, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),  # the focal loss takes every anchor
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(nms_pre=1000, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
