"""The bound of a FixNorm layer holds on both sides of 0: for its outputs, its gradient and its folded form."""

import math

import pytest
import torch

from mmfixnorm.core import FixNormConv2d, FixNormLinear, WNLinear
from mmfixnorm.engine.start import warn_of_negative_scales

LAYERS = {
    'linear': (lambda: FixNormLinear(7, 10, alpha=0.5), (4, 7)),
    'conv': (lambda: FixNormConv2d(3, 10, 3, alpha=0.5), (2, 3, 8, 8)),
}
BOUND = 0.5 * math.sqrt(10)


@pytest.mark.parametrize('g', [-9.0, -0.3, 0.3, 9.0])
@pytest.mark.parametrize('kind', LAYERS)
def test_the_scale_is_bounded_by_its_absolute_value(kind, g):
    make, shape = LAYERS[kind]
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        layer.g.fill_(g)
    bounded = math.copysign(min(abs(g), BOUND), g)
    plain = layer.to_plain()
    torch.testing.assert_close(plain.weight, layer.weight / layer.weight.norm() * bounded)
    torch.testing.assert_close(plain(x), layer(x))
    layer(x).square().sum().backward()
    assert (layer.g.grad.item() == 0) == (abs(g) > BOUND)


def test_two_alphas_below_a_negative_scale_give_different_outputs():
    x = torch.randn(4, 7)
    outputs = []
    for alpha in (0.25, 0.5):
        torch.manual_seed(0)
        layer = FixNormLinear(7, 10, alpha=alpha, bias=False)
        with torch.no_grad():
            layer.g.fill_(-5.0)
        outputs.append(layer(x))
    torch.testing.assert_close(outputs[1], 2 * outputs[0])


def test_a_scale_from_a_plain_checkpoint_has_the_dtype_of_its_weight():
    plain = torch.nn.Linear(2000, 10)  # large enough that its norm is summed in float64
    layer = WNLinear(2000, 10)
    layer.load_state_dict(plain.state_dict(), assign=True)
    assert layer.g.dtype == layer.weight.dtype == torch.float32


def test_a_scale_that_has_crossed_0_is_named_once(caplog, monkeypatch):
    said = []
    monkeypatch.setattr('mmfixnorm.engine.start.print_log', lambda text, **kwargs: said.append(text))
    model = torch.nn.Sequential(WNLinear(3, 4), FixNormLinear(4, 2, alpha=1.0))
    known = set()
    warn_of_negative_scales(model, known)
    assert said == []
    with torch.no_grad():
        model[1].g.fill_(-0.1)
    warn_of_negative_scales(model, known)
    warn_of_negative_scales(model, known)
    assert len(said) == 1
    assert "g of ['1'] is below 0" in said[0]
    warn_of_negative_scales(torch.nn.Linear(2, 2), known)
