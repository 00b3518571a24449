# Blood cells at a quarter of the photos' size, for a third of the iterations.
_base_ = ['../../../configs/bccd/retinanet_r18-thin-fpn_wd_1xb4-600i_bccd.py']

resize = dict(type='Resize', scale=(160, 120), keep_ratio=True)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[3:]]))
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
# A second stage without a stride, for cells half as large as there.
model = dict(
    backbone=dict(strides=(1, 1, 2, 2)),
    bbox_head=dict(anchor_generator=dict(strides=[4, 8, 16])),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=200, T_max=190),
]
train_cfg = dict(max_iters=200, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
search = dict(type='GridSearch', lrs=(0.04,), metric='coco/bbox_mAP_50', rule='greater')
