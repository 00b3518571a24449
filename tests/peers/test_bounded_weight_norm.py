"""Norm-bounded convolutions against torch's weight normalisation with fixed lengths, and means of the batch."""

import math

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from mmfixnorm.core import fill_scales, fold_layers
from mmfixnorm.peers import MeanOnlyBatchNorm2d, NormBoundedConv2d

ARGUMENTS = {
    'plain': dict(kernel_size=3),
    'strided, with bias': dict(kernel_size=3, stride=2, padding=1, bias=True),
    'depthwise': dict(kernel_size=3, groups=6),
    'pointwise': dict(kernel_size=1, bias=True),
}


def make(**kwargs):
    return NormBoundedConv2d(6, 6, **dict(bias=False) | kwargs).double()


def reference_of(layer, kwargs):
    """torch's layer, each channel at the length ||V||_F / sqrt(channels) of the given one."""
    conv = nn.Conv2d(6, 6, **dict(bias=False) | kwargs).double()
    conv.load_state_dict({k: v for k, v in layer.state_dict().items() if k != 'g'})
    conv = weight_norm(conv, dim=0)
    rho = math.sqrt(sum(w.square().sum().item() for w in layer.weight)) / math.sqrt(6)
    nn.init.constant_(conv.parametrizations.weight.original0, rho)
    return conv


@pytest.mark.parametrize('kwargs', ARGUMENTS.values(), ids=ARGUMENTS)
def test_outputs_and_gradients_are_those_of_weight_norm_at_a_fixed_length(kwargs):
    layer = make(**kwargs)
    reference = reference_of(layer, kwargs)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    target = torch.randn_like(layer(x))
    for conv in (layer, reference):
        (conv(x) * target).sum().backward()
    torch.testing.assert_close(layer(x), reference(x))
    torch.testing.assert_close(layer.weight.grad, reference.parametrizations.weight.original1.grad)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, reference.bias.grad)


def test_no_training_changes_the_length_of_a_channel():
    layer = make(kernel_size=3)
    start = layer.weight.norm().item()
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        layer(torch.randn(2, 6, 8, 8, dtype=torch.float64)).sin().sum().backward()
        optimizer.step()
        lengths = layer.effective_weight().flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, start / math.sqrt(6)))
    assert layer.weight.norm() > 1.5 * start
    assert layer.g.item() == pytest.approx(start)  # not trained


def test_a_layer_made_from_a_plain_one_or_folded_keeps_what_it_computes():
    plain = nn.Conv2d(6, 6, 3).double()
    layer = NormBoundedConv2d.from_plain(plain)
    assert layer.weight is plain.weight
    assert not layer.g.requires_grad
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    expected = layer(x)
    model = nn.Sequential(layer)
    fold_layers(model)
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(x), expected)


def test_a_checkpoint_brings_the_length_and_one_of_a_plain_layer_gives_it():
    layer, other, plain = make(kernel_size=3), make(kernel_size=3), nn.Conv2d(6, 6, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.mul_(3)  # as training does; the length of the effective weight stays
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.effective_weight(), layer.effective_weight())
    other.load_state_dict(plain.state_dict())
    assert other.effective_weight().norm().item() == pytest.approx(plain.weight.norm().item())


def test_conv_module_builds_both_and_the_scale_follows_its_init():
    module = ConvModule(
        3, 8, 3, conv_cfg=dict(type='NormBoundedConv2d'), norm_cfg=dict(type='MeanOnlyBatchNorm2d'), act_cfg=None
    )
    assert type(module.conv) is NormBoundedConv2d
    assert type(module.norm) is MeanOnlyBatchNorm2d
    fill_scales(module)
    assert module.conv.g.item() == pytest.approx(module.conv.weight.norm().item(), rel=1e-6)
    assert module(torch.randn(2, 3, 8, 8)).shape == (2, 8, 6, 6)


def test_means_of_the_batch_are_batch_norm_with_unit_variance():
    layer = MeanOnlyBatchNorm2d(4).double()
    nn.init.normal_(layer.bias)
    reference = nn.BatchNorm2d(4, eps=1e-30).double()
    for _ in range(3):
        x = 3 * torch.randn(5, 4, 6, 6, dtype=torch.float64) + 1
        spread = x.var((0, 2, 3), unbiased=False).sqrt().view(1, -1, 1, 1)
        expected = reference(x).detach() * spread + layer.bias.view(1, -1, 1, 1)
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer.running_mean, reference.running_mean)
    layer.eval()
    expected = x - reference.running_mean.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match='4D'):
        layer(x[0])
