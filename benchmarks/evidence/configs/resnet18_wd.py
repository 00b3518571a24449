# ResNet-18 of a quarter of its width, with ImageNet's stem, on the data and schedule of the small residual network.
_base_ = ['./residual_wd.py']

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=16, stem_channels=16, out_indices=(3,)),
    head=dict(in_channels=128),
)
