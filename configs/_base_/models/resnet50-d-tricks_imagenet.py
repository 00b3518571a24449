_base_ = ['./imagenet_classifier.py']

# SE, swish and stochastic depth; the rate is EfficientNet-B0's.
model = dict(backbone=dict(type='SEResNetV1d', depth=50, drop_path_rate=0.2), head=dict(in_channels=2048))
