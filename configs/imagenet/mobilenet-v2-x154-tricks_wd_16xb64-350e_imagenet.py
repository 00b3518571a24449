_base_ = [
    '../_base_/models/mobilenet-v2-x154-tricks_imagenet.py',
    '../_base_/datasets/imagenet_bs64_autoaug.py',
    '../_base_/schedules/sgd_bs1024_350e.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(optimizer=dict(lr=0.2, weight_decay=4e-5))
