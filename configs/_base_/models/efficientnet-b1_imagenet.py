_base_ = ['./efficientnet-b0_imagenet.py']

model = dict(backbone=dict(arch='b1'))
