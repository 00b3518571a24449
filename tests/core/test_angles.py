"""The angle of a step against float64 arithmetic on the weights before and after it."""

import copy
import math
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmfixnorm.core import fix_norm, norm_fixing_parameters
from mmfixnorm.core.angles import StepMeter, joint_cosine

OPTIMIZERS = {
    'sgd': lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    'sgd, decay': lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.1),
    'adamw': lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
}
FIXING = {
    'plain': None,
    'fixed': {},
    'angle per layer': dict(update='angle'),
    'angle per set': dict(update='angle', per='set'),
    'angle per filter': dict(update='angle', per='filter'),
}


def small_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 3, bias=False)).double()


def backward(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64)
    model.zero_grad()
    F.cross_entropy(model(x), torch.randint(3, (8,), generator=generator)).backward()


def arrays(model):
    return [p.detach().numpy().ravel().copy() for p in norm_fixing_parameters(model).values()]


def angle(a, b):
    return math.acos(min(1.0, float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))))


def proposed(model, optimizer, make):
    """The weights after a step of the optimizer alone, on a copy."""
    twin = copy.deepcopy(model)
    for p, q in zip(twin.parameters(), model.parameters()):
        p.grad = q.grad.clone()
    alone = make(twin.parameters())
    alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    alone.step()
    return arrays(twin)


@pytest.mark.filterwarnings('ignore:weights whose norm is fixed have weight_decay')
@pytest.mark.parametrize('fixing', FIXING.values(), ids=FIXING)
@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_twenty_steps_have_the_angles_of_float64_arithmetic(make, fixing):
    model = small_net()
    optimizer = make(model.parameters())
    norm_fixer = None if fixing is None else fix_norm(optimizer, model=model, **fixing)
    meter = StepMeter()
    meter.install(optimizer, [] if norm_fixer is None else [norm_fixer])
    for seed in range(20):
        backward(model, seed)
        before, raw = arrays(model), proposed(model, optimizer, make)
        meter.arm([*norm_fixing_parameters(model).values()])
        optimizer.step()
        step = meter.read()
        after = arrays(model)
        expected = [angle(a, b) for a, b in zip(before, after)]
        assert step.layers == pytest.approx(expected, rel=1e-9)
        assert expected[step.largest] == pytest.approx(max(expected), rel=1e-9)
        assert step.median == pytest.approx(np.median(expected), rel=1e-9)
        w, v, d = np.concatenate(before), np.concatenate(after), np.concatenate(raw) - np.concatenate(before)
        assert step.joint == pytest.approx(angle(w, v), rel=1e-9)
        share = abs(w @ d) / (np.linalg.norm(w) * np.linalg.norm(d))
        assert step.radial_share == pytest.approx(share, rel=1e-6, abs=1e-12)


def test_a_layer_turned_by_the_learning_rate_has_this_angle():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    norm_fixer = fix_norm(optimizer, model=model, update='angle', per='layer')
    meter = StepMeter()
    meter.install(optimizer, [norm_fixer])
    meter.arm([*norm_fixing_parameters(model).values()])
    backward(model, 0)
    optimizer.step()
    assert meter.read().layers == pytest.approx([0.02] * 3, rel=1e-9)


@pytest.mark.parametrize('turn', [1e-1, 1e-4, 1e-5])
@pytest.mark.parametrize('shrink', [1.0, 0.5])
def test_small_angles_of_float32_weights_keep_their_digits(turn, shrink):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 32, 3, 3, generator=generator)
    across = torch.randn(weight.shape, generator=generator)
    across -= weight * (weight * across).sum() / weight.square().sum()
    after = shrink * (math.cos(turn) * weight + math.sin(turn) * across * weight.norm() / across.norm())
    parameter = nn.Parameter(weight)
    parameter.grad = weight - after
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    meter = StepMeter()
    meter.install(optimizer)
    meter.arm([parameter])
    optimizer.step()
    step = meter.read()
    # Rounding turns the weights by 3e-8 rad, in a random direction.
    assert step.joint == pytest.approx(turn, rel=1e-4)
    assert step.layers == pytest.approx([turn], rel=1e-4)


def test_weight_decay_settles_at_the_angle_of_its_equilibrium():
    """Random gradients of a scale-invariant loss: across the weights, and of length 1 / ||W||."""
    generator = torch.Generator().manual_seed(0)
    lr, decay, momentum = 0.1, 0.01, 0.9
    parameter = nn.Parameter(torch.randn(1000, generator=generator, dtype=torch.float64) / 1000**0.5)
    optimizer = torch.optim.SGD([parameter], lr=lr, weight_decay=decay, momentum=momentum)
    meter = StepMeter()
    meter.install(optimizer)
    angles = []
    for number in range(4000):
        weight = parameter.detach()
        grad = torch.randn(1000, generator=generator, dtype=torch.float64)
        grad -= weight * (weight @ grad) / (weight @ weight)
        parameter.grad = grad / grad.norm() / weight.norm()
        if number >= 3000:
            meter.arm([parameter])
        optimizer.step()
        if number >= 3000:
            angles.append(meter.read().joint)
    assert np.mean(angles) == pytest.approx(math.sqrt(2 * lr * decay / (1 + momentum)), rel=0.05)


def one_weight():
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    parameter.grad = torch.tensor([4.0, -3.0])
    return parameter


def test_only_armed_steps_are_measured():
    parameter = one_weight()
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    meter = StepMeter()
    meter.install(optimizer)
    optimizer.step()
    assert meter.read() is None
    meter.arm([parameter])
    assert meter.read() is None  # no step was taken
    optimizer.step()
    assert meter.read() is None
    with pytest.raises(ValueError, match='there are no weights'):
        meter.arm([])


def test_of_several_steps_the_last_one_is_measured():
    parameter = one_weight()
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    meter = StepMeter()
    meter.install(optimizer)
    meter.arm([parameter])
    optimizer.step()
    before = parameter.detach().double().numpy().copy()
    parameter.grad = torch.tensor([0.0, 1.0])
    optimizer.step()
    assert meter.read().joint == pytest.approx(angle(before, parameter.detach().double().numpy()), rel=1e-5)


@pytest.mark.skipif('fused' not in signature(torch.optim.SGD).parameters, reason='SGD has no fused form in this torch')
@pytest.mark.parametrize('fixing', [None, {}, dict(update='angle')], ids=['plain', 'fixed', 'angle'])
def test_a_step_that_the_optimizer_itself_skips_is_not_an_angle_of_zero(fixing):
    parameter = one_weight()
    optimizer = torch.optim.SGD([parameter], lr=0.1, fused=True)
    norm_fixers = [] if fixing is None else [fix_norm(optimizer, params=[parameter], **fixing)]
    meter = StepMeter()
    meter.install(optimizer, norm_fixers)
    optimizer.grad_scale = torch.ones(())
    for found_inf in (1.0, 0.0):
        optimizer.found_inf = torch.tensor(found_inf)
        meter.arm([parameter])
        optimizer.step()
        assert (meter.read() is None) is bool(found_inf)


def test_a_tensor_that_does_not_move_is_left_out_of_the_median():
    moved, held, dead = one_weight(), nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([moved, held, dead], lr=0.1)
    meter = StepMeter()
    meter.install(optimizer)
    meter.arm([moved, held, dead])
    optimizer.step()
    step = meter.read()
    turned = math.atan(0.1)
    assert step.layers[:2] == [pytest.approx(turned, rel=1e-6), 0.0]
    assert math.isnan(step.layers[2])
    assert (step.median, step.largest) == (step.layers[0], 0)
    assert step.radial_share == pytest.approx(0.0, abs=1e-6)


def test_a_step_of_length_zero_has_the_angle_zero_and_no_radial_share():
    parameter = one_weight()
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    meter = StepMeter()
    meter.install(optimizer)
    meter.arm([parameter])
    optimizer.step()
    assert meter.read() == (0.0, [0.0], None)


def test_the_meter_leaves_the_weights_as_they_are_without_it():
    ends = []
    for metered in (False, True):
        model = small_net()
        optimizer = OPTIMIZERS['sgd'](model.parameters())
        norm_fixer = fix_norm(optimizer, model=model, update='angle')
        meter = StepMeter()
        for seed in range(6):
            if metered and seed >= 2:  # norm fixing is installed already
                meter.install(optimizer, [norm_fixer])
                meter.arm([*norm_fixing_parameters(model).values()])
            backward(model, seed)
            optimizer.step()
        meter.remove()
        backward(model, 6)
        optimizer.step()
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*ends))


class Recorder(TorchDispatchMode):
    """Writes down which operators run."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_step_that_is_not_measured_runs_no_operator_more_and_none_waits():
    calls = {}
    for name in ('without', 'not armed', 'armed'):
        model = small_net()
        optimizer = OPTIMIZERS['sgd'](model.parameters())
        norm_fixer = fix_norm(optimizer, model=model)
        meter = StepMeter()
        if name != 'without':
            meter.install(optimizer, [norm_fixer])
        backward(model, 0)
        optimizer.step()
        if name == 'armed':
            meter.arm([*norm_fixing_parameters(model).values()])
        with Recorder() as recorder:
            optimizer.step()
        calls[name] = recorder.calls
    assert calls['not armed'] == calls['without']
    assert len(calls['armed']) > len(calls['without'])
    assert not any('_local_scalar_dense' in call for call in calls['armed'])  # what copies a value to the host


def test_the_joint_cosine_is_of_all_weights_as_one_vector():
    generator = torch.Generator().manual_seed(0)
    ours, others = ([torch.randn(n, 3, generator=generator) for n in (2, 700)] for _ in range(2))
    a, b = (torch.cat([t.double().ravel() for t in tensors]) for tensors in (ours, others))
    assert joint_cosine(ours, others).item() == pytest.approx((a @ b / a.norm() / b.norm()).item(), abs=1e-7)
    assert joint_cosine(ours, ours).item() == pytest.approx(1.0, abs=1e-7)
