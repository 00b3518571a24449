"""Statistics of norm layers that run on stored ones, where nothing has computed any."""

import pytest
import torch
from torch import nn

from mmfixnorm.core import audit
from mmfixnorm.core.audit.calibration import calibrate

IMAGES = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def frozen_net(depth: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        nn.init.normal_(layers[-3].weight)
        layers[-2].eval()
    return nn.Sequential(*layers)


def test_statistics_are_near_those_of_the_first_input() -> None:
    model = frozen_net(3)
    names = calibrate(model, lambda: model(IMAGES))
    assert names == [f'{i}.{name}' for i in (1, 4, 7) for name in ('running_mean', 'running_var')]
    with torch.no_grad():
        x = model[0](IMAGES)
    off = (model[1].running_mean - x.mean((0, 2, 3))).abs() / x.std((0, 2, 3))
    ratio = model[1].running_var / x.var((0, 2, 3), correction=0)
    assert off.max() <= 0.51
    assert off.min() > 0
    assert 0.49 <= ratio.min() < ratio.max() <= 1.51


def test_signals_of_a_deep_frozen_net_do_not_grow() -> None:
    """Each layer multiplies them by about 8 with statistics of 0 and 1."""
    model = frozen_net(30)
    with torch.no_grad():
        assert model(IMAGES).std() > 1e15
        calibrate(model, lambda: model(IMAGES))
        assert 0.1 < model(IMAGES).std() < 10


@pytest.mark.parametrize(
    'change',
    [lambda norm: norm.train(), lambda norm: norm.running_mean.add_(0.1), lambda norm: norm.running_var.mul_(2)],
    ids=['trains', 'mean of its own', 'variance of its own'],
)
def test_other_layers_stay_as_they_are_without_a_forward(change) -> None:
    model = frozen_net(1)
    change(model[1])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert calibrate(model, lambda: pytest.fail('a forward')) == []
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_constant_channel_and_a_second_use_do_no_harm() -> None:
    norm = nn.BatchNorm2d(3).eval()
    model = nn.Sequential(norm, norm)
    images = IMAGES.clone()
    images[:, 0] = 2.0
    calibrate(model, lambda: model(images))
    assert torch.isfinite(model(images)).all()
    assert torch.allclose(norm.running_mean[0], torch.tensor(2.0), atol=0.51)


def test_the_audit_of_a_deep_frozen_net_sees_every_scale() -> None:
    model = nn.Sequential(frozen_net(30), nn.Flatten(), nn.Linear(800, 2))
    report = audit(model, IMAGES)
    assert not any(record.scale_invariant for record in report.weights)
    assert {record.cause for record in report.weights[:-1]} == {'stored_statistics'}
    assert all(buffer.sum() in (0, 8) for buffer in (model[0][1].running_mean, model[0][1].running_var))
