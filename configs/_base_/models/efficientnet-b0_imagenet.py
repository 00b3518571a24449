_base_ = ['./imagenet_classifier.py']

# Dropout and stochastic depth of the reference implementation.
model = dict(
    backbone=dict(type='EfficientNet', arch='b0', drop_path_rate=0.2),
    neck=dict(type='GlobalAveragePoolingDropout', dropout_ratio=0.2),
    head=dict(in_channels=1280),
)
