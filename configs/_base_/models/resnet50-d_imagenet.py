_base_ = ['./imagenet_classifier.py']

model = dict(backbone=dict(type='ResNetV1d', depth=50), head=dict(in_channels=2048))
