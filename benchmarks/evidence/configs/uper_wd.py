# UPerNet on CamVid, with the data, schedule and backbone of the small Base-OC.
_base_ = ['./camvid_wd.py']

model = dict(
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[16, 32, 64],
        in_index=[0, 1, 2],
        channels=64,
        pool_scales=(1, 2, 3, 6),
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )
)
