"""The layers that tell the classes apart, in heads of every kind, with one class too, where numbers mislead."""

import pytest

from mmfixnorm.config import load_config
from mmfixnorm.convert.audit import model_of
from mmfixnorm.convert.classifiers import class_layers

THIN = {'model.backbone.depth': 18, 'model.backbone.init_cfg': None}
R18 = {**THIN, 'model.neck.in_channels': [64, 128, 256, 512]}
GFL, FCOS = 'gfl/gfl_r50_fpn_1x_coco', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco'
YOLOX = {f'bbox_head.multi_level_conv_cls.{level}' for level in range(3)}


@pytest.mark.parametrize(
    ('config', 'changes', 'layers'),
    [
        # 68 outputs of the box regression are a multiple of 1, 2 and 4 classes; centerness has as many as one class.
        *[(GFL, {**R18, 'model.bbox_head.num_classes': n}, {'bbox_head.gfl_cls'}) for n in (1, 2, 4)],
        (FCOS, {**R18, 'model.bbox_head.num_classes': 1}, {'bbox_head.conv_cls'}),
        ('yolox/yolox_tiny_8xb8-300e_coco', {'model.bbox_head.num_classes': 1}, YOLOX),
        ('yolox/yolox_tiny_8xb8-300e_coco', {}, YOLOX),
        # With two classes an RPN could be taken for a classifier. The boxes of each class are told by their loss.
        (
            'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
            {**R18, 'model.roi_head.bbox_head.num_classes': 2},
            {'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'},
        ),
        # An RPN of another type has a class too, the objects.
        (
            'faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco',
            R18,
            {'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'},
        ),
        (
            'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
            R18,
            {f'roi_head.bbox_head.{stage}.fc_cls' for stage in range(3)},
        ),
        ('solov2/solov2-light_r18_fpn_ms-3x_coco', {}, {'mask_head.conv_cls'}),
        # Outputs for 80 things, 0 or 53 kinds of stuff, and nothing.
        ('mask2former/mask2former_r50_8xb2-lsj-50e_coco', {}, {'panoptic_head.cls_embed'}),
        ('mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic', {}, {'panoptic_head.cls_embed'}),
    ],
)  # fmt: skip
def test_detectors(config, changes, layers) -> None:
    cfg = load_config(f'mmdet::{config}.py', cfg_options=changes)
    assert class_layers(cfg, model_of(cfg)) == dict.fromkeys(layers, True)


def test_a_layer_for_boxes_and_classes_is_not_all_for_classes() -> None:
    cfg = load_config('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py')
    assert class_layers(cfg, model_of(cfg)) == {f'bbox_head.convs_pred.{i}': False for i in range(3)}


@pytest.mark.parametrize(
    ('config', 'layers'),
    [
        ('ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024', {'decode_head.0.conv_seg', 'decode_head.1.conv_seg'}),
        ('upernet/upernet_r18_4xb2-40k_cityscapes-512x1024', {'decode_head.conv_seg', 'auxiliary_head.conv_seg'}),
    ],
)
def test_every_head_of_a_segmentor(config, layers) -> None:
    cfg = load_config(f'mmseg::{config}.py')
    assert class_layers(cfg, model_of(cfg)) == dict.fromkeys(layers, True)


@pytest.mark.parametrize(
    ('config', 'head', 'layers'),
    [
        ('inception_v3/inception-v3_8xb32_in1k', None, {'backbone.fc'}),
        ('mobilenet_v3/mobilenet-v3-small_8xb128_in1k', None, {'head.layers.1.fc'}),
        (
            'resnet/resnet18_8xb16_cifar10',
            dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=4, in_channels=512),
            {'head.fc'},
        ),
        (
            'resnet/resnet18_8xb16_cifar10',
            dict(
                _delete_=True,
                type='MultiTaskHead',
                in_channels=512,
                task_heads=dict(
                    colour=dict(type='LinearClsHead', num_classes=3), kind=dict(type='LinearClsHead', num_classes=5)
                ),
            ),
            {'head.task_heads.colour.fc', 'head.task_heads.kind.fc'},
        ),
    ],
)
def test_classifiers(config, head, layers) -> None:
    cfg = load_config(f'mmpretrain::{config}.py')
    if head:
        cfg.merge_from_dict(dict(model=dict(head=head)))
    assert class_layers(cfg, model_of(cfg)) == dict.fromkeys(layers, True)


@pytest.mark.parametrize('classes', [1, 2])
def test_a_single_output_tells_two_classes_apart(classes) -> None:
    cfg = load_config('mmseg::upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py')
    binary = dict(num_classes=classes, out_channels=1, loss_decode=dict(use_sigmoid=True))
    cfg.merge_from_dict(dict(model=dict(decode_head=binary)))
    cfg.model.auxiliary_head = None
    assert class_layers(cfg, model_of(cfg)) == {'decode_head.conv_seg': True}
    cfg = load_config('mmseg::upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py')
    cfg.merge_from_dict(dict(model=dict(decode_head=binary)))
    assert class_layers(cfg, model_of(cfg)) == {'decode_head.conv_seg': True, 'auxiliary_head.conv_seg': True}


def test_where_no_key_counts_the_classes_nothing_is_known() -> None:
    cfg = load_config('mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py')
    assert class_layers(cfg, model_of(cfg)) is None
