"""The segmentor with Base-OC."""

_base_ = ['./segmentation.py']

model = dict(
    decode_head=dict(
        _delete_=True,
        type='FixNormBaseOCHead',
        alpha=1.0,
        in_channels=16,
        in_index=1,
        channels=16,
        key_channels=8,
        num_classes=3,
        norm_cfg=dict(type='BN'),
    )
)
