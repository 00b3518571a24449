_base_ = [
    '../_base_/models/base-oc_r18-thin.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/sgd_cosine-240i.py',
    '../_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(strides=(1, 2, 1), dilations=(1, 1, 2)),
    decode_head=dict(loss_decode=dict(class_weight=[1.0] * 11)),
    auxiliary_head=dict(loss_decode=dict(class_weight=[1.0] * 11)),
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=8, enable=False)
default_hooks = dict(checkpoint=dict(interval=120, max_keep_ckpts=1))
