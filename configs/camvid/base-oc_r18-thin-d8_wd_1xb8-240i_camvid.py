_base_ = [
    '../_base_/models/base-oc_r18-thin.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/sgd_cosine-240i.py',
    '../_base_/seg_runtime.py',
]

# The mean over the pixels that are not void. Not by class weights of 1: mmseg up to 1.2.2 indexes them with void's 255.
loss = dict(class_weight=None, avg_non_ignore=True)
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(strides=(1, 2, 1), dilations=(1, 1, 2)),
    decode_head=dict(loss_decode=loss),
    auxiliary_head=dict(loss_decode=loss),
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=8, enable=False)
default_hooks = dict(checkpoint=dict(interval=120, max_keep_ckpts=1))
