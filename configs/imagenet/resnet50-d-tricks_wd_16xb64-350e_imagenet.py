_base_ = [
    '../_base_/models/resnet50-d-tricks_imagenet.py',
    '../_base_/datasets/imagenet_bs64_autoaug.py',
    '../_base_/schedules/sgd_bs1024_350e.py',
    '../_base_/default_runtime.py',
]
