# The first three stages of ResNet-18 at a quarter of its width, dilated instead of strided: thin strokes need a
# quarter of the resolution. BN uses the statistics of the batch. The auxiliary head is on the stage before the last.
norm_cfg = dict(type='BN', requires_grad=True)
head = dict(num_classes=11, norm_cfg=norm_cfg, align_corners=False)
class_weight = [5.0] * 10 + [0.5]  # nine of ten pixels are background
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[58.0] * 3, bgr_to_rgb=True, size=(96, 96), seg_pad_val=255
    ),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        base_channels=16,
        stem_channels=32,  # no convolution below 16 channels: the CPU kernels are slow there
        num_stages=3,
        out_indices=(0, 1, 2),
        strides=(1, 1, 1),
        dilations=(1, 2, 4),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='BaseOCHead',
        in_channels=64,
        in_index=2,
        channels=64,
        key_channels=32,
        loss_decode=dict(type='CrossEntropyLoss', class_weight=class_weight),
        **head,
    ),
    auxiliary_head=dict(
        **dict(type='FCNHead', in_channels=32, in_index=1, channels=32, num_convs=1, concat_input=False, **head),
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4, class_weight=class_weight),
    ),
    test_cfg=dict(mode='whole'),
)
