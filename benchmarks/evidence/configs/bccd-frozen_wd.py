# Fine-tuning: the backbone of the detector of digits, its stem and first stage frozen, BN on stored statistics.
_base_ = ['./bccd_wd.py']

trained = 'work_dirs/retinanet_r18-thin-fpn_wd_1xb16-1200i_digits-det/iter_1200.pth'
model = dict(
    backbone=dict(
        frozen_stages=1, norm_eval=True, init_cfg=dict(type='Pretrained', prefix='backbone.', checkpoint=trained)
    ),
)
