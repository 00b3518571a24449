"""The backbones for small images against closed forms and their parents."""

import pytest
import torch
from mmpretrain.models.backbones import MobileNetV2
from torch import nn

from mmfixnorm.cls.backbones import MobileNetV2CIFAR, ThinResNetCIFAR


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def resnet_parameters(n: int, width: int) -> int:
    """Weights of 3 stages of n blocks, counted by hand: convolutions, norm layers, projections."""
    convs = 27 * width + 2 * n * 9 * width**2
    norms = 2 * width * (1 + 2 * n)
    for stage in (1, 2):
        c = width * 2**stage
        convs += 9 * (c // 2) * c + (2 * n - 1) * 9 * c**2 + (c // 2) * c
        norms += 2 * c * (2 * n + 1)
    return convs + norms


@pytest.mark.parametrize(('depth', 'width', 'n'), [(8, 8, 1), (14, 16, 2), (20, 16, 3), (56, 16, 9)])
def test_thin_resnet_has_the_closed_form_number_of_parameters(depth, width, n):
    model = ThinResNetCIFAR(depth, base_channels=width)
    assert num_parameters(model) == resnet_parameters(n, width)


@pytest.mark.parametrize(('depth', 'millions'), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_thin_resnet_has_the_size_that_its_paper_prints(depth, millions):
    """He et al. 2016, table 6, with the classifier of 64 x 10 + 10."""
    total = num_parameters(ThinResNetCIFAR(depth)) + 650
    assert total / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize('depth', [8, 20])
def test_thin_resnet_has_6n_plus_2_weighted_layers(depth):
    convs = [m for m in ThinResNetCIFAR(depth).modules() if isinstance(m, nn.Conv2d)]
    on_the_main_path = [m for m in convs if m.kernel_size == (3, 3)]
    assert len(on_the_main_path) + 1 == depth  # and the classifier


@pytest.mark.parametrize(
    ('model', 'size', 'shapes'),
    [
        (ThinResNetCIFAR(8, base_channels=4), 8, [(2, 16, 2, 2)]),
        (ThinResNetCIFAR(20), 32, [(2, 64, 8, 8)]),
        (ThinResNetCIFAR(8, num_stages=2), 32, [(2, 32, 16, 16)]),
        (ThinResNetCIFAR(8, out_indices=(0, 2)), 32, [(2, 16, 32, 32), (2, 64, 8, 8)]),
        (MobileNetV2CIFAR(), 32, [(2, 1280, 4, 4)]),
        (MobileNetV2CIFAR(widen_factor=0.5, out_indices=(1, 6)), 32, [(2, 16, 32, 32), (2, 160, 4, 4)]),
    ],
)  # fmt: skip
def test_output_shapes(model, size, shapes):
    model.eval()
    outs = model(torch.rand(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == shapes


@pytest.mark.parametrize('depth', [18, 7, None])
def test_a_depth_that_is_not_6n_plus_2_is_refused_with_the_value(depth):
    with pytest.raises(ValueError, match=rf'depth must be one of \[8, 14, .*got {depth}'):
        ThinResNetCIFAR(depth)


@pytest.mark.parametrize('widen_factor', [0.5, 1.0])
def test_mobilenet_differs_from_its_parent_in_strides_alone(widen_factor):
    ours, parent = MobileNetV2CIFAR(widen_factor), MobileNetV2(widen_factor)
    ours.load_state_dict(parent.state_dict(), strict=True)
    changed = {
        name: (a.stride, b.stride)
        for (name, a), (_, b) in zip(ours.named_modules(), parent.named_modules(), strict=True)
        if isinstance(a, nn.Conv2d) and a.stride != b.stride
    }
    assert changed == {
        'conv1.conv': ((1, 1), (2, 2)),
        'layer2.0.conv.1.conv': ((1, 1), (2, 2)),
    }


@pytest.mark.parametrize('build', [lambda **kw: ThinResNetCIFAR(8, **kw), lambda **kw: MobileNetV2CIFAR(0.5, **kw)])
def test_every_convolution_is_scale_invariant_in_training(build):
    """The precondition of norm fixing: 7 times all convolutions changes no output."""
    # BN's eps is an absolute number and would blur what is tested here
    model = build(norm_cfg=dict(type='BN', eps=1e-20)).double()
    model.train()
    inputs = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    before = model(inputs)[0]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(7)
    torch.testing.assert_close(model(inputs)[0], before, rtol=1e-9, atol=1e-9)
