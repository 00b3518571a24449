# Faster R-CNN on blood cells, with the data, schedule and backbone of the small RetinaNet, and few proposals.
_base_ = ['./bccd_wd.py']

anchors = dict(type='AnchorGenerator', scales=[3], ratios=[1.0], strides=[4, 8, 16])
nms = dict(type='nms', iou_threshold=0.7)
proposals = dict(nms_pre=500, max_per_img=200, nms=nms, min_bbox_size=0)
assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False)
of_rpn = dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True)
sampler = dict(type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1)
model = dict(
    _delete_=True,
    type='FasterRCNN',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=dict(type='FPN', in_channels=[32, 64, 128], out_channels=48, num_outs=3),
    rpn_head=dict(type='RPNHead', in_channels=48, feat_channels=48, anchor_generator=anchors),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=48,
            featmap_strides=[4, 8, 16],
        ),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=48, fc_out_channels=256, roi_feat_size=7, num_classes=3),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner={
                **assigner,
                'pos_iou_thr': 0.7,
                'neg_iou_thr': 0.3,
                'min_pos_iou': 0.3,
                'match_low_quality': True,
            },
            sampler={**sampler, 'pos_fraction': 0.5, 'add_gt_as_proposals': False},
            allowed_border=-1,
            pos_weight=-1,
        ),
        rpn_proposal=proposals,
        rcnn=dict(assigner=assigner, sampler={**sampler, 'add_gt_as_proposals': True}, pos_weight=-1, debug=False),
    ),
    test_cfg=dict(rpn=proposals, rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
)
