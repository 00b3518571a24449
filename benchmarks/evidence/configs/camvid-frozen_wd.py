# Fine-tuning: the backbone of pretrain_camvid.py, its stem and first stage frozen, BN on stored statistics.
_base_ = ['./camvid_wd.py']

trained = 'work_dirs/pretrain_camvid/epoch_10.pth'
model = dict(
    backbone=dict(
        frozen_stages=1, norm_eval=True, init_cfg=dict(type='Pretrained', prefix='backbone.', checkpoint=trained)
    ),
)
