"""Backbones with squeeze-and-excitation against their parents, closed forms and naive computations."""

import pytest
import torch
from mmpretrain.models.backbones import EfficientNet, MobileNetV2, ResNetV1d, SEResNet
from mmpretrain.models.utils import InvertedResidual, SELayer
from torch import nn

from mmfixnorm.cls.squeeze_excitation import (
    SEMobileNetV2,
    SEResNetV1d,
    StochasticDepthSEBottleneck,
    WNEfficientNet,
    WNSEMobileNetV2,
    WNSEResNetV1d,
)
from mmfixnorm.core.layers import WNConv2d

PAIRS = [
    (SEMobileNetV2, WNSEMobileNetV2, dict(widen_factor=0.25)),
    (SEResNetV1d, WNSEResNetV1d, dict(depth=50, base_channels=16, stem_channels=16)),
    (EfficientNet, WNEfficientNet, dict(arch='b0')),
]
pairs = pytest.mark.parametrize(('plain', 'ours', 'args'), PAIRS, ids=lambda x: getattr(x, '__name__', ''))


def evaluated(model: nn.Module) -> nn.Module:
    model.eval()  # of a backbone of mmpretrain it returns nothing
    return model


def se_layers(model: nn.Module) -> list[nn.Conv2d]:
    return [c.conv for m in model.modules() if isinstance(m, SELayer) for c in (m.conv1, m.conv2)]


@pairs
def test_both_layers_of_every_se_block_are_weight_normalised_and_nothing_else_is(plain, ours, args):
    model = ours(**args)
    found = se_layers(model)
    assert found
    assert all(type(layer) is WNConv2d for layer in found)
    assert {id(m) for m in model.modules() if isinstance(m, WNConv2d)} == {id(layer) for layer in found}


@pairs
def test_the_fixnorm_form_starts_as_the_plain_one_with_the_same_random_numbers(plain, ours, args):
    models = []
    for cls in (plain, ours):
        torch.manual_seed(0)
        models.append(evaluated(cls(**args)))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(models[1](images)[0], models[0](images)[0], rtol=1e-5, atol=1e-6)


@pairs
def test_a_checkpoint_of_the_plain_form_loads_into_the_fixnorm_form(plain, ours, args):
    torch.manual_seed(0)
    source, target = evaluated(plain(**args)), evaluated(ours(**args))
    missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith('.g') for name in missing)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(target(images)[0], source(images)[0], rtol=1e-5, atol=1e-6)


def test_mobilenet_without_its_se_blocks_is_mmpretrain_s():
    """Same widths, strides and order: the parent's weights fill it, and with an open gate it computes the same."""
    ours = evaluated(SEMobileNetV2(divisor=8, drop_path_rate=0.0, act_cfg=dict(type='ReLU6')))
    parent = evaluated(MobileNetV2())
    for module in ours.modules():
        if isinstance(module, SELayer):
            module.forward = lambda x: x
    own = [
        m for name, m in ours.named_modules() if '.se.' not in f'{name}.' and isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
    ]
    stock = [m for m in parent.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    assert [type(m) for m in own] == [type(m) for m in stock]
    for mine, theirs in zip(own, stock, strict=True):
        mine.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(images)[0], parent(images)[0])


WRONG_STAGES = [dict(out_indices=(8,)), dict(out_indices=(-1, 7)), dict(frozen_stages=8), dict(frozen_stages=-2)]


@pytest.mark.parametrize('wrong', WRONG_STAGES)
def test_stages_that_do_not_exist_are_refused_as_by_mmpretrain(wrong):
    for backbone in (MobileNetV2, SEMobileNetV2):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            backbone(**wrong)


@pytest.mark.parametrize(
    ('widen_factor', 'stem', 'stages', 'last'),
    # 32, (16, 24, 32, 64, 96, 160, 320) and 1280 times the width, rounded by hand to multiples of 4
    [(1.12, 36, [20, 28, 36, 72, 108, 180, 360], 1432), (1.54, 48, [24, 36, 48, 100, 148, 248, 492], 1972)],
)
def test_channels_are_rounded_to_multiples_of_four(widen_factor, stem, stages, last):
    model = SEMobileNetV2(widen_factor=widen_factor)
    assert model.conv1.conv.out_channels == stem
    assert [getattr(model, f'layer{i}')[-1].linear_conv.conv.out_channels for i in range(1, 8)] == stages
    assert model.conv2.conv.out_channels == model.out_channel == last


def test_se_squeezes_to_a_quarter_of_the_block_s_input():
    model = SEMobileNetV2()
    blocks = [block for i in range(1, 8) for block in getattr(model, f'layer{i}')]
    inputs = [
        b.expand_conv.conv.in_channels if b.with_expand_conv else b.depthwise_conv.conv.in_channels for b in blocks
    ]
    assert [b.se.conv1.conv.out_channels for b in blocks] == [n // 4 for n in inputs]


@pytest.mark.parametrize(
    ('backbone', 'args', 'num_blocks'), [(SEMobileNetV2, {}, 17), (SEResNetV1d, dict(depth=50), 16)]
)
def test_the_rate_of_stochastic_depth_rises_linearly(backbone, args, num_blocks):
    model = backbone(drop_path_rate=0.2, **args)
    blocks = [m for m in model.modules() if isinstance(m, (InvertedResidual, StochasticDepthSEBottleneck))]
    rates = [getattr(block.drop_path, 'drop_prob', 0.0) for block in blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.2, num_blocks).tolist(), abs=1e-6)


def test_stochastic_depth_of_the_bottleneck_drops_the_branch_and_keeps_its_mean():
    """mmpretrain's own SEBottleneck takes the rate and never uses it."""
    block = StochasticDepthSEBottleneck(16, 16, se_ratio=4, drop_path_rate=0.5).train()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # a sample's output then depends on that sample alone
    images = torch.rand(1, 16, 4, 4).expand(400, -1, -1, -1)
    torch.manual_seed(0)
    out = block(images)
    dropped = (out == images).flatten(1).all(1)
    assert 0.4 < dropped.float().mean() < 0.6
    block.eval()
    inner = block.relu(block.norm1(block.conv1(images[:1])))
    branch = block.se_layer(block.norm3(block.conv3(block.relu(block.norm2(block.conv2(inner))))))
    kept = out[~dropped][0]
    torch.testing.assert_close(kept, torch.relu(images[0] + branch[0] / 0.5))
    torch.testing.assert_close(block(images[:1])[0], torch.relu(images[0] + branch[0]))


def test_the_se_resnet_is_mmpretrain_s_but_for_stem_activation_and_stochastic_depth():
    torch.manual_seed(0)
    args = dict(depth=50, base_channels=16, stem_channels=16, deep_stem=True, avg_down=True)
    parent = evaluated(SEResNet(**args))
    ours = evaluated(SEResNetV1d(50, base_channels=16, stem_channels=16, act_cfg=dict(type='ReLU')))
    ours.load_state_dict(parent.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images)[0], parent(images)[0])


def test_swish_is_everywhere_but_in_the_gate():
    for model in (SEMobileNetV2(widen_factor=0.25), SEResNetV1d(50, base_channels=16, stem_channels=16)):
        kinds = {type(m) for m in model.modules() if isinstance(m, (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid))}
        assert kinds == {nn.SiLU, nn.Sigmoid}


def test_the_stock_bottleneck_blocks_have_no_se():
    assert not se_layers(ResNetV1d(depth=50, base_channels=16, stem_channels=16))
