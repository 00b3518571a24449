_base_ = ['./imagenet_classifier.py']

model = dict(backbone=dict(type='MobileNetV2'), head=dict(in_channels=1280))
