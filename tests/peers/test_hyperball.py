"""Hyperball: steps against a naive float64 loop, any optimizer inside, and what it refuses."""

import copy
import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmfixnorm.core.membership import flagged

CONSTRUCTOR = dict(constructor='FixNormOptimWrapperConstructor')
OPTIMIZERS = {
    'sgd': dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True),
    'adamw': dict(type='AdamW', lr=0.05, weight_decay=0.1),
    'muon': dict(type='Muon', lr=0.05),
}


def wrap(model, optimizer='sgd', **kwargs):
    if optimizer == 'muon':
        pytest.importorskip('pytorch_optimizer')
    options = dict(
        type='HyperballOptimWrapper', optimizer=OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    )
    return build_optim_wrapper(model, CONSTRUCTOR | options | kwargs)


def schedule(step):
    return 0.05 * 0.5 * (1 + math.cos(math.pi * step / 50))


def proposals(model, optimizer):
    """The steps that the optimizer alone makes on a copy of the model, whose weights are set again in each step."""
    copied = copy.deepcopy(model)
    wrapper = build_optim_wrapper(copied, CONSTRUCTOR | dict(optimizer=OPTIMIZERS[optimizer]))
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group['params']}

    def propose(grads, lr):
        with torch.no_grad():
            for p, current, grad in zip(copied.parameters(), model.parameters(), grads):
                p.copy_(current)
                p.grad = grad.clone()
                groups[id(p)]['lr'] = lr if p.ndim > 1 else 0.1 * lr
            wrapper.optimizer.step()
            return [p - current for p, current in zip(copied.parameters(), model.parameters())]

    return propose


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_50_steps_follow_a_naive_loop(net, optimizer):
    model, reference = net(), net()
    wrapper = wrap(model, optimizer, other_lr=0.1)
    propose = proposals(reference, optimizer)
    radius = [p.detach().square().sum().sqrt() for p in reference.parameters()]
    for step in range(50):
        for group, factor in zip(wrapper.optimizer.param_groups, (1, 0.1), strict=True):
            group['lr'] = factor * schedule(step)
        wrapper.update_params(model.loss(step))
        grads = torch.autograd.grad(reference.loss(step), [*reference.parameters()])
        with torch.no_grad():
            for p, d, r in zip(reference.parameters(), propose(grads, schedule(step)), radius):
                if p.ndim == 1:
                    p.add_(d)
                    continue
                moved = p + schedule(step) * r * d / d.square().sum().sqrt()
                p.copy_(r * moved / moved.square().sum().sqrt())
    for p, q, r in zip(model.parameters(), reference.parameters(), radius):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
        assert p.ndim == 1 or p.norm().item() == pytest.approx(r.item(), rel=1e-9)


def test_the_size_of_gradients_does_not_matter_to_the_set(net):
    changes = []
    for factor in (1, 1000):
        model = net()
        wrapper = wrap(model)
        (factor * model.loss(0)).backward()
        wrapper.step()
        changes.append([w.detach().clone() for w in flagged(wrapper.optimizer)])
    for one, two in zip(*changes):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize('other_lr, expected', [(None, 1.0), (0.2, 0.01)])
def test_parameters_outside_the_set_have_their_own_learning_rate(net, other_lr, expected):
    in_set, rest = wrap(net(), other_lr=other_lr).optimizer.param_groups
    assert (in_set['lr'], rest['lr']) == (0.05, pytest.approx(expected))


def test_a_weight_without_a_gradient_stays(net):
    model = net()
    wrapper = wrap(model)
    before = model[0].weight.detach().clone()
    model.loss(0).backward()
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    wrapper.step()
    assert torch.equal(model[0].weight, before)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut_and_resumed):
    one, two = cut_and_resumed(wrapper=CONSTRUCTOR | dict(type='HyperballOptimWrapper'), lr=0.05)
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name


@pytest.mark.parametrize('option', [dict(target=5.0), dict(update='angle')])
def test_another_norm_fixer_is_refused(net, option):
    with pytest.raises(
        ValueError, match='HyperballOptimWrapper keeps the norm of each weight; it takes neither target'
    ):
        wrap(net(), **option)


@pytest.mark.parametrize('size', [1e-30, 1e25])
def test_steps_have_their_share_for_gradients_of_any_finite_size(size):
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, bias=False))
    wrapper = wrap(model, optimizer=dict(type='SGD', lr=0.05))
    before = model[0].weight.detach().clone()
    gradient = torch.randn_like(before)
    gradient -= before * (gradient * before).sum() / before.square().sum()
    model[0].weight.grad = gradient * size
    wrapper.step()
    assert torch.cosine_similarity(model[0].weight.flatten(), before.flatten(), 0).item() == pytest.approx(
        math.cos(math.atan(0.05)), rel=1e-6
    )
