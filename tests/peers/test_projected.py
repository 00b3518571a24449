"""SGDP and AdamP: steps against a float64 reference of the rule, and what the config may say."""

import math
import sys

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIMIZERS

import mmfixnorm.peers  # noqa: F401
from mmfixnorm.errors import ConfigError

pytest.importorskip('pytorch_optimizer')
LR, DECAY, DELTA, RATIO = 0.1, 0.05, 0.1, 0.25


def without_radial_part(weight, grad, step):
    """The step, the share of weight decay, and what was found scale-invariant: each channel, or else the whole."""
    for kind, rows in ('channel', weight.flatten(1)), ('layer', weight.reshape(1, -1)):
        g, s = grad.reshape(rows.shape), step.reshape(rows.shape)
        cosines = [abs(float(a @ b)) / float(a.norm() * b.norm()) for a, b in zip(rows, g)]
        if max(cosines) < DELTA / math.sqrt(rows.shape[1]):
            directions = [row / row.norm() for row in rows]
            tangential = [b - (a @ b) * a for a, b in zip(directions, s)]
            return torch.stack(tangential).reshape(weight.shape), RATIO, kind
    return step, 1.0, 'none'


def gradients(kind, weight):
    """A gradient at right angles to each channel, to the whole weight only, or to neither."""
    grad = torch.randn(weight.shape, dtype=torch.float64)
    rows = {'channel': weight.flatten(1), 'layer': weight.reshape(1, -1), 'none': None}[kind]
    if rows is None:
        return grad + weight
    g = grad.reshape(rows.shape)
    if kind == 'layer':
        g = g + torch.cat([torch.ones(weight.numel() // 2), -torch.ones(weight.numel() // 2)]) * rows
    g = g - (g * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True) * rows
    return g.reshape(weight.shape)


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('kind', ['channel', 'layer', 'none'])
def test_sgdp_takes_the_steps_of_the_rule(kind, nesterov):
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3, dtype=torch.float64))
    reference, buffer = weight.detach().clone(), torch.zeros(4, 3, 3, 3, dtype=torch.float64)
    cfg = dict(type='SGDP', params=[weight], lr=LR, momentum=0.9, nesterov=nesterov)
    optimizer = OPTIMIZERS.build(cfg | dict(weight_decay=DECAY, delta=DELTA, wd_ratio=RATIO))
    for _ in range(5):
        weight.grad = gradients(kind, reference)
        buffer = 0.9 * buffer + weight.grad
        step = weight.grad + 0.9 * buffer if nesterov else buffer
        step, ratio, found = without_radial_part(reference, weight.grad, step)
        assert found == kind
        reference = reference * (1 - LR * DECAY * ratio / (1 - 0.9)) - LR * step
        optimizer.step()
        torch.testing.assert_close(weight.detach(), reference, rtol=1e-6, atol=1e-7)


def test_adamp_takes_the_steps_of_the_rule():
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3, dtype=torch.float64))
    reference = weight.detach().clone()
    mean, square = torch.zeros_like(reference), torch.zeros_like(reference)
    cfg = dict(type='AdamP', params=[weight], lr=0.01, weight_decay=DECAY, delta=DELTA, wd_ratio=RATIO)
    optimizer = OPTIMIZERS.build(cfg)
    for t in range(1, 6):
        weight.grad = gradients('channel', reference)
        mean = 0.9 * mean + 0.1 * weight.grad
        square = 0.999 * square + 0.001 * weight.grad.square()
        step = mean / (1 - 0.9**t) / (square / (1 - 0.999**t)).sqrt()
        step, ratio, _ = without_radial_part(reference, weight.grad, step)
        reference = reference * (1 - 0.01 * DECAY * ratio) - 0.01 * step
        optimizer.step()
        torch.testing.assert_close(weight.detach(), reference, rtol=1e-5, atol=1e-6)


def test_an_optim_wrapper_builds_them_by_name(net):
    for name in ('SGDP', 'AdamP'):
        wrapper = build_optim_wrapper(net(), dict(optimizer=dict(type=name, lr=0.1)))
        assert type(wrapper.optimizer).__name__ == name
        assert type(wrapper.optimizer).__module__.startswith('pytorch_optimizer.')


@pytest.mark.parametrize('name', ['SGDP', 'AdamP'])
def test_an_option_that_does_not_exist_is_refused(net, name):
    with pytest.raises(ConfigError, match=rf"{name} does not know \['wd_rate'\]; it takes .*'wd_ratio'"):
        build_optim_wrapper(net(), dict(optimizer=dict(type=name, lr=0.1, wd_rate=0.1)))


def test_without_the_library_the_message_says_what_to_install(net, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_optimizer', None)
    message = r"type='SGDP' needs pytorch_optimizer: pip install 'mmfixnorm\[peers\]'"
    with pytest.raises(ConfigError, match=message):
        build_optim_wrapper(net(), dict(optimizer=dict(type='SGDP', lr=0.1)))
