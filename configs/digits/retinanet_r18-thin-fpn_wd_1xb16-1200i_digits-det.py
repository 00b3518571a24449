_base_ = [
    '../_base_/models/retinanet_r18-thin-fpn.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/sgd_cosine-1200i.py',
    '../_base_/det_runtime.py',
]

auto_scale_lr = dict(base_batch_size=16, enable=False)
default_hooks = dict(checkpoint=dict(interval=300, max_keep_ckpts=1))
