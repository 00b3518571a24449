"""Rotational variants: the angle against plain weight decay, steps against a naive float64 loop, what is refused."""

import inspect
import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmfixnorm.peers import RotationalNormFixer, equilibrium_angle

DECAY, FC_DECAY, BETA = 0.01, 0.02, 0.9
OPTIMIZERS = {
    'sgd': dict(type='SGD', lr=0.5, momentum=0.9),
    'adamw': dict(type='AdamW', lr=0.05, betas=(0.8, 0.99), weight_decay=0.0),
}


def wrap(model, optimizer='sgd', **kwargs):
    options = dict(
        type='RotationalOptimWrapper',
        weight_decay=DECAY,
        constructor='FixNormOptimWrapperConstructor',
        paramwise_cfg=dict(lambda_fc=FC_DECAY),
        optimizer=OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer,
    )
    return build_optim_wrapper(model, options | kwargs)


def schedule(step):
    return 0.5 * (1 + math.cos(math.pi * step / 50))


class Naive:
    """One parameter's updates, without learning rate, and its angle in equilibrium; in float64."""

    def __init__(self, name):
        self.name, self.t, self.m, self.v = name, 0, 0.0, 0.0

    def update(self, grad, weight, decay):
        self.t += 1
        if self.name == 'sgd':  # decay is added to the gradient
            self.m = 0.9 * self.m + grad + decay * weight
            return self.m
        self.m, self.v = 0.8 * self.m + 0.2 * grad, 0.99 * self.v + 0.01 * grad**2
        return self.m / (1 - 0.8**self.t) / ((self.v / (1 - 0.99**self.t)).sqrt() + 1e-8) + decay * weight

    def angle(self, lr):
        return math.sqrt(2 * lr * DECAY / 1.9) if self.name == 'sgd' else math.sqrt(2 * lr * DECAY * 0.2 / 1.8)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_50_steps_follow_a_naive_loop(net, name):
    model, reference = net(), net()
    wrapper = wrap(model, name)
    naive = [Naive(name) for _ in reference.parameters()]
    norms = [[row.norm() for row in p.detach()] for p in reference.parameters()]
    averages = [[0.0] * len(p) for p in reference.parameters()]
    for step in range(50):
        lr = OPTIMIZERS[name]['lr'] * schedule(step)
        for group in wrapper.optimizer.param_groups:
            group['lr'] = lr
        wrapper.update_params(model.loss(step))
        grads = torch.autograd.grad(reference.loss(step), [*reference.parameters()])
        with torch.no_grad():
            for i, (p, grad) in enumerate(zip(reference.parameters(), grads)):
                update = naive[i].update(grad, p, FC_DECAY if p.ndim == 2 else 0.0)
                if p.ndim < 4:
                    p.sub_(lr * update)
                    continue
                for c, (row, u, norm) in enumerate(zip(p, update, norms[i])):
                    across = u - (u * row).sum() / norm**2 * row
                    averages[i][c] = BETA * averages[i][c] + (1 - BETA) * across.square().sum()
                    length = (averages[i][c] / (1 - BETA ** (step + 1))).sqrt()
                    new = row - naive[i].angle(lr) * norm * across / length
                    row.copy_(new * norm / new.norm())
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-8)
    for p, rows in zip(model.parameters(), norms):
        if p.ndim == 4:
            assert [row.norm().item() for row in p] == pytest.approx([n.item() for n in rows], rel=1e-9)


@pytest.mark.parametrize('name, lr, decay', [('sgd', 0.2, 0.05), ('adamw', 0.02, 0.2)])
def test_under_weight_decay_random_gradients_turn_weights_by_the_angle_of_the_equilibrium(name, lr, decay):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(1, 2000, dtype=torch.float64))
    if name == 'sgd':
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9, weight_decay=decay)
    else:
        optimizer = torch.optim.AdamW([weight], lr=lr, betas=(0.9, 0.999), weight_decay=decay)
    angles = []
    for step in range(3000):
        before = weight.detach().clone()
        grad = torch.randn_like(before)
        weight.grad = (grad - (grad * before).sum() / before.square().sum() * before) / before.norm()  # scale-invariant
        optimizer.step()
        if step >= 2500:
            angles.append(torch.nn.functional.cosine_similarity(weight.detach(), before).clamp(-1, 1).acos().item())
    expected = equilibrium_angle(optimizer, optimizer.param_groups[0], decay)
    assert sum(angles) / len(angles) == pytest.approx(expected, rel=0.05)


def test_a_channel_turns_more_in_a_step_that_is_longer_than_the_average(net):
    model = net()
    wrapper = wrap(model, optimizer=dict(type='SGD', lr=0.5))
    angles = []
    for factor in (1, 1, 3):
        before = model[0].weight.detach().clone()
        (factor * model.loss(0)).backward()
        wrapper.step()
        wrapper.zero_grad()
        cosines = torch.nn.functional.cosine_similarity(before.flatten(1), model[0].weight.detach().flatten(1))
        angles.append(cosines.clamp(-1, 1).acos())
    expected = math.sqrt(2 * 0.5 * DECAY)
    assert angles[0].tolist() == pytest.approx([math.atan(expected)] * 4, rel=1e-6)
    assert (angles[2] > 1.3 * expected).all()


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut_and_resumed):
    options = dict(
        type='RotationalOptimWrapper', weight_decay=DECAY, constructor='FixNormOptimWrapperConstructor', beta=0.99
    )
    one, two = cut_and_resumed(wrapper=options | dict(optimizer=OPTIMIZERS['sgd']))
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name


def test_a_channel_of_zeros_is_refused(net):
    model = net()
    with torch.no_grad():
        model[3].weight[1] = 0
    with pytest.raises(ValueError, match='a weight of 6 output channels has some that are all zero'):
        wrap(model).update_params(model.loss(0))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(weight_decay=0.0), r'optim_wrapper.weight_decay must be finite and > 0, got 0.0'),
        (dict(beta=1.0), r'optim_wrapper.beta must be in \[0, 1\), got 1.0'),
        (dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)), 'set optimizer.nesterov=False'),
        (dict(optimizer=dict(type='RMSprop', lr=0.1)), "'SGD', 'Adam' and 'AdamW', not for RMSprop"),
        (dict(target=1.0), 'keeps the norm of each output channel; it takes neither target'),
        (dict(other_lr=2.0), 'optim_wrapper.other_lr: .* got 2.0 without either'),
    ],
)
def test_what_cannot_be_is_refused_before_training(net, options, message):
    with pytest.raises(ValueError, match=message):
        wrap(net(), **options)


def test_a_skipped_step_leaves_the_average_alone(net):
    model = net().float()
    if 'fused' not in inspect.signature(torch.optim.SGD).parameters:
        pytest.skip(f'torch {torch.__version__} has no fused SGD')
    optimizer = torch.optim.SGD([dict(params=model.convs(), fix_norm=True)], lr=0.1, fused=True)
    norm_fixer = RotationalNormFixer(DECAY)
    norm_fixer.install(optimizer)
    x = torch.randn(8, 1, 8, 8)
    model(x).square().mean().backward()
    optimizer.step()
    before = [p.detach().clone() for p in model.convs()], norm_fixer.state_dict()['rows'][0, 0]
    for p in model.convs():
        p.grad.fill_(math.inf)
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.ones(())
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.convs(), before[0]))
    rows = norm_fixer.state_dict()['rows'][0, 0]
    assert all(torch.equal(rows[key], before[1][key]) for key in rows)


def test_an_average_that_overflows_is_seen():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, bias=False))
    wrapper = wrap(model, optimizer=dict(type='SGD', lr=0.5, momentum=0.9))
    model[0].weight.grad = torch.randn_like(model[0].weight) * 1e25
    wrapper.step()
    assert model[0].weight.isnan().all()
