_base_ = [
    '../_base_/models/retinanet_r18-thin-fpn.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/sgd_cosine-600i.py',
    '../_base_/det_runtime.py',
]

model = dict(bbox_head=dict(num_classes=3, anchor_generator=dict(octave_base_scale=3, ratios=[1.0])))  # cells are round
auto_scale_lr = dict(base_batch_size=4, enable=False)
default_hooks = dict(checkpoint=dict(interval=200, max_keep_ckpts=1))
