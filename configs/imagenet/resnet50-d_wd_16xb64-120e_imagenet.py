_base_ = [
    '../_base_/models/resnet50-d_imagenet.py',
    '../_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/sgd_bs1024_120e.py',
    '../_base_/default_runtime.py',
]
