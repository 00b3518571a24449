_base_ = ['./imagenet_classifier.py']

# SE, swish and stochastic depth as in EfficientNet-B0, of whose size it is.
model = dict(backbone=dict(type='SEMobileNetV2', widen_factor=1.12), head=dict(in_channels=1432))
