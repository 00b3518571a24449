_base_ = [
    '../_base_/models/base-oc_r18-thin.py',
    '../_base_/datasets/digits_segmentation.py',
    '../_base_/schedules/sgd_cosine-1200i.py',
    '../_base_/seg_runtime.py',
]

optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=8, enable=False)
default_hooks = dict(checkpoint=dict(interval=300, max_keep_ckpts=1))
