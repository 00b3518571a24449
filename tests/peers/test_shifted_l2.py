"""The shifted L2 regulariser: its gradient against autograd, its place inside the step, what it refuses."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmfixnorm.engine.hooks.fix_norm_hook import FixNormHook
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers.shifted_l2 import ShiftedL2Hook, add_shifted_l2_gradient_

DECAY, EPSILON = 0.05, 0.3
SGD = dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)
CONSTRUCTOR = dict(constructor='FixNormOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=0.01))


def penalty(weights, epsilon=EPSILON):
    """The regulariser as it is written, filter by filter."""
    return sum(DECAY / 2 * (w.square().sum().sqrt() - epsilon) ** 2 for weight in weights for w in weight)


def hooked(model, epsilon=EPSILON, hook=None, hooks=(), **kwargs):
    """An optim wrapper under the hook, without a Runner."""
    wrapper = build_optim_wrapper(model, CONSTRUCTOR | dict(optimizer=SGD) | kwargs)
    hook = hook or ShiftedL2Hook(DECAY, epsilon)
    hook.before_train(SimpleNamespace(model=model, optim_wrapper=wrapper, hooks=hooks))
    return wrapper


@pytest.mark.parametrize('shape', [(4, 3, 3, 3), (6, 1, 3, 3), (5, 7)], ids=str)
@pytest.mark.parametrize('epsilon', [0.0, 1e-3, 2.0])
def test_the_gradient_is_that_of_the_regulariser(shape, epsilon):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(penalty([weight], epsilon), weight)
    before = torch.randn_like(weight)
    weight.grad = before.clone()
    add_shifted_l2_gradient_(weight, DECAY, epsilon)
    torch.testing.assert_close(weight.grad, before + expected)


def test_a_filter_at_the_aim_or_at_zero_is_left_alone():
    weight = torch.nn.Parameter(torch.zeros(3, 2, 1, 1))
    with torch.no_grad():
        weight[1, 0], weight[2, 1] = EPSILON, 2 * EPSILON
    weight.grad = torch.zeros_like(weight)
    add_shifted_l2_gradient_(weight, DECAY, EPSILON)
    torch.testing.assert_close(weight.grad.flatten(1), torch.tensor([[0, 0], [0, 0], [0, DECAY * EPSILON]]))


@pytest.mark.parametrize('thawed_at', [0, 5])
def test_steps_are_those_of_sgd_on_the_loss_with_the_regulariser(net, sgd_with_decay, thawed_at):
    model, reference = net(), net()
    model[0].weight.requires_grad_(thawed_at == 0)
    wrapper = hooked(model)
    optimizer = sgd_with_decay(reference, 0.0, 0.01, lr=0.1, momentum=0.9, nesterov=True)
    for i in range(10):
        for each in (model, reference):
            each[0].weight.requires_grad_(i >= thawed_at)
        wrapper.update_params(model.loss(i))
        optimizer.zero_grad()
        (reference.loss(i) + penalty(reference.convs())).backward()
        optimizer.step()
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q)


def test_without_a_shift_it_is_weight_decay_also_under_clipping_and_accumulation(net, sgd_with_decay):
    model, reference = net(), net()
    wrapper = hooked(model, epsilon=0.0, clip_grad=dict(max_norm=0.05), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 12)
    optimizer = sgd_with_decay(reference, DECAY, 0.01, lr=0.1, momentum=0.9, nesterov=True)
    for i in range(12):
        wrapper.update_params(model.loss(i))
        (reference.loss(i) / 2).backward()
        if i % 2:
            assert torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.05) > 0.05
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q)


def test_a_second_call_of_train_does_not_add_it_twice(net):
    models = [net(), net()]
    wrappers = [hooked(model) for model in models]
    hook = ShiftedL2Hook(DECAY, EPSILON)
    wrappers[1] = hooked(models[1], hook=hook)
    hook.before_train(SimpleNamespace(model=models[1], optim_wrapper=wrappers[1], hooks=()))
    for model, wrapper in zip(models, wrappers):
        wrapper.update_params(model.loss(0))
    assert torch.equal(models[0][0].weight, models[1][0].weight)


def test_gradients_that_are_still_scaled_are_refused(net):
    model = net()
    wrapper = hooked(model)
    wrapper.optimizer.grad_scale = torch.tensor(8.0)  # what a loss scaler hands to a fused optimizer
    with pytest.raises(ConfigError, match='gradients are still scaled; set optim_wrapper.optimizer.fused=False'):
        wrapper.update_params(model.loss(0))


@pytest.mark.parametrize(
    'kwargs', [dict(type='FixNormOptimWrapper'), dict(hooks=[FixNormHook()])], ids=['wrapper', 'hook']
)
def test_norm_fixing_besides_is_refused(net, kwargs):
    with pytest.raises(ConfigError, match='in place of that of norm fixing.*and remove FixNormHook'):
        hooked(net(), **kwargs)


def test_weight_decay_besides_is_refused(net):
    plain = dict(constructor='DefaultOptimWrapperConstructor', paramwise_cfg=None)
    with pytest.raises(ConfigError, match=r'ShiftedL2Hook replaces weight decay .* weight_decay \[0.0001\]'):
        hooked(net(), optimizer=SGD | dict(weight_decay=1e-4), **plain)
    hooked(net(), optimizer=SGD, **plain)  # any constructor is fine without decay


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(weight_decay=0.0, epsilon=0.1), 'weight_decay must be finite and > 0, got 0.0'),
        (dict(weight_decay=0.1, epsilon=-1.0), 'epsilon must be finite and >= 0, got -1.0'),
        (dict(weight_decay=0.1, epsilon=math.nan), 'got nan'),
        (dict(weight_decay=0.1, epsilon=0.1, exclude=['nope']), "ShiftedL2Hook: exclude: the pattern 'nope' matches"),
        (dict(weight_decay=0.1, epsilon=0.1, exclude=['.']), 'ShiftedL2Hook: the norm-fixing set is empty'),
    ],
)
def test_bad_input_says_what_was_found(net, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        hooked(net(), hook=ShiftedL2Hook(**kwargs))
