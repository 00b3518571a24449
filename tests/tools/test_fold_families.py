"""A checkpoint of every family of models folds and loads strictly into the stock config, with equal outputs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmfixnorm.convert import convert
from mmfixnorm.core import WeightNormalized
from mmfixnorm.fold import fold_checkpoint
from mmfixnorm.launch import build_model, load_config
from tests.tools.families import auxiliary_outputs, config_file, distance, images, outputs, trained_model, write_child

WN = dict(type='WNConv2d')
# Configs of this package, and the plain ones whose models they train: of a toolbox, where it has that model.
SHIPPED = {
    'imagenet/resnet50_fixnorm_16xb64-100e_imagenet': 'mmpretrain/resnet/resnet50_8xb32_in1k',
    'imagenet/resnet50_wn-fc_16xb64-100e_imagenet': 'mmpretrain/resnet/resnet50_8xb32_in1k',
    'imagenet/resnet50-d_fixnorm_16xb64-120e_imagenet': 'mmpretrain/resnet/resnetv1d50_8xb32_in1k',
    'imagenet/resnet50-d-tricks_fixnorm_16xb64-350e_imagenet': 'imagenet/resnet50-d-tricks_wd_16xb64-350e_imagenet',
    'imagenet/mobilenet-v2_fixnorm_16xb64-150e_imagenet': 'mmpretrain/mobilenet_v2/mobilenet-v2_8xb32_in1k',
    'imagenet/mobilenet-v2-x112-tricks_fixnorm_16xb64-350e_imagenet': (
        'imagenet/mobilenet-v2-x112-tricks_wd_16xb64-350e_imagenet'
    ),
    'imagenet/efficientnet-b0_fixnorm_16xb64-350e_imagenet': 'mmpretrain/efficientnet/efficientnet-b0_8xb32_in1k',
    'cifar10/resnet18_fixnorm_1xb128-100e_cifar10': 'mmpretrain/resnet/resnet18_8xb16_cifar10',
    'coco/retinanet_r50-fpn_fixnorm_8xb2-step-90k_coco': 'mmdet/retinanet/retinanet_r50_fpn_1x_coco',
    'coco/retinanet_r50-fpn_fixnorm-wn-frozen-bn_8xb2-cosine-90k_coco': 'mmdet/retinanet/retinanet_r50_fpn_1x_coco',
    'camvid/base-oc_r18-thin-d8_fixnorm_1xb8-240i_camvid': 'camvid/base-oc_r18-thin-d8_wd_1xb8-240i_camvid',
}
FCN_AUX = dict(type='FixNormFCNHead', alpha=1.0)
# Changes by hand to the model of a stock config.
CHANGED = {
    'mmdet/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': dict(
        neck=dict(conv_cfg=WN), bbox_head=dict(type='FixNormFCOSHead', alpha=1.0)
    ),
    'mmseg/pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024': dict(
        decode_head=dict(type='FixNormPSPHead', alpha=1.0), auxiliary_head=FCN_AUX
    ),
    'mmseg/deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024': dict(
        decode_head=dict(type='FixNormDepthwiseSeparableASPPHead', alpha=1.0), auxiliary_head=FCN_AUX
    ),
    'mmpretrain/seresnet/seresnet50_8xb32_in1k': dict(
        type='FixNormModel',
        fixnorm=dict(
            plain_type='ImageClassifier',
            alpha=1.0,
            swap={r'.*\.se_layer\.conv\d\.conv': 'WNConv2d', 'head.fc': 'FixNormLinear'},
        ),
    ),
    'mmdet/atss/atss_r50_fpn_1x_coco': dict(
        type='FixNormModel',
        fixnorm=dict(
            plain_type='ATSS',
            swap={
                r'neck\..*\.conv': 'WNConv2d',
                r'bbox_head\.atss_(reg|centerness)': 'WNConv2d',
                'bbox_head.atss_cls': dict(type='FixNormConv2d', alpha=0.5),
            },
        ),
    ),
}
# Written by the converter; its audit takes images of this size.
CONVERTED = {
    'mmpretrain/mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k': 64,
    'mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024': 32,
}


def all_outputs(model: nn.Module) -> list[torch.Tensor]:
    return [*outputs(model, images()), *auxiliary_outputs(model, images())]


def loaded(stock: Path, state: dict) -> nn.Module:
    model = build_model(load_config(stock))
    assert not any(isinstance(module, WeightNormalized) for module in model.modules())
    nn.Module.load_state_dict(model, state, strict=True)  # a toolbox may have a lenient one of its own
    return model.eval()


def check(ours: Path, stock: Path, folder: Path) -> list[str]:
    """Fold a checkpoint of the one config, load it into the other; return the names of the folded layers."""
    trained = trained_model(ours, images())
    expected = all_outputs(trained)
    torch.save(dict(state_dict=trained.state_dict()), folder / 'fixnorm.pth')
    folded = fold_checkpoint(load_config(ours), str(folder / 'fixnorm.pth'))
    assert distance(all_outputs(loaded(stock, folded['state_dict'])), expected) < 1e-5
    # The weights as they are would load as well, and compute something else.
    names = folded['meta']['folded']
    weights = {key: value for key, value in trained.state_dict().items() if key not in {f'{n}.g' for n in names}}
    assert distance(all_outputs(loaded(stock, weights)), expected) > 1e-2
    return names


@pytest.mark.slow
@pytest.mark.parametrize('name', SHIPPED)
def test_a_checkpoint_of_a_config_of_this_package_fits_the_stock_config(tmp_path, name) -> None:
    assert check(config_file(name), config_file(SHIPPED[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', CHANGED)
def test_a_stock_config_with_heads_or_layers_replaced_folds_back(tmp_path, name) -> None:
    ours = write_child(name, CHANGED[name], tmp_path / 'ours.py')
    assert check(ours, config_file(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', CONVERTED)
def test_what_the_converter_writes_folds_back_into_the_config_that_it_was_given(tmp_path, name) -> None:
    converted = convert(str(config_file(name)), str(tmp_path / 'ours.py'), size=CONVERTED[name])
    names = check(tmp_path / 'ours.py', config_file(name), tmp_path)
    assert sorted(names) == sorted([*converted.weight_normalized, *converted.classifiers])


def test_channels_of_bounded_norm_fold_too(tmp_path) -> None:
    ours = config_file('cifar10/resnet20_bounded-wn_1xb128-20e_cifar10-5k')
    stock = load_config(ours)
    stock.model.backbone.pop('conv_cfg')
    stock.dump(tmp_path / 'stock.py')
    assert check(ours, tmp_path / 'stock.py', tmp_path)
