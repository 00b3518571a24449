# Fig. 1 left and the baseline of Fig. 1 right.
_base_ = [
    '../_base_/models/resnet50_imagenet.py',
    '../_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/sgd_bs1024_100e.py',
    '../_base_/default_runtime.py',
]
