_base_ = ['./mobilenet-v2-x112-tricks_imagenet.py']

# Of the size of EfficientNet-B1.
model = dict(backbone=dict(widen_factor=1.54), head=dict(in_channels=1972))
