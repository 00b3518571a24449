# The same for the backbone of camvid_wd.py.
_base_ = ['./pretrain_bccd.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg.ResNetV1c',
        depth=18,
        base_channels=16,
        stem_channels=32,
        num_stages=3,
        out_indices=(2,),
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
    ),
    head=dict(in_channels=64),
)
