# CamVid for half of the iterations.
_base_ = ['../../../configs/camvid/base-oc_r18-thin-d8_wd_1xb8-240i_camvid.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=6),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=6, end=120, T_max=114),
]
train_cfg = dict(max_iters=120, val_interval=120)
default_hooks = dict(checkpoint=dict(interval=120))
search = dict(type='GridSearch', lrs=(0.3,), metric='mIoU', rule='greater')
