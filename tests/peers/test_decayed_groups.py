"""LARS, LAMB and AdamC: groups with options, steps against naive float64 loops, and what is refused."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

import mmfixnorm.peers  # noqa: F401
from mmfixnorm.core.membership import FLAG
from mmfixnorm.errors import ConfigError

CONSTRUCTOR = 'DecayedGroupsOptimWrapperConstructor'
LR, DECAY, FC_DECAY = 0.5, 0.01, 0.03
LARS = dict(type='mmpretrain.LARS', lr=LR, momentum=0.9, weight_decay=DECAY, eta=0.01)
LAMB = dict(type='mmpretrain.Lamb', lr=LR, weight_decay=DECAY)
ADAMC = dict(type='AdamC', lr=LR, weight_decay=DECAY)
GROUPS = {
    'lars': dict(no_decay=dict(lr_mult=0.1, lars_exclude=True)),
    'lamb': dict(no_decay=dict(lr_mult=0.1)),
    'adamc': dict(norm_fixing=dict(normalized=True)),
}


def wrap(model, optimizer, **paramwise):
    if optimizer['type'] == 'AdamC':
        pytest.importorskip('pytorch_optimizer')
    else:
        pytest.importorskip('mmpretrain')
    return build_optim_wrapper(model, dict(constructor=CONSTRUCTOR, optimizer=optimizer, paramwise_cfg=paramwise))


def naive_lars(state, p, grad, lr, decay):
    if p.ndim == 1:
        share, lr = 1.0, 0.1 * lr
    else:
        share = 0.01 * p.norm() / (grad.norm() + decay * p.norm() + 1e-8)
    state['m'] = 0.9 * state.get('m', 0) + share * lr * (grad + decay * p)
    return -state['m']


def adam(state, grad, eps, of_library=False):
    """The step for learning rate 1; pytorch_optimizer adds eps before the bias correction, and 1e-15 to the square."""
    t = state['t'] = state.get('t', 0) + 1
    state['m'] = 0.9 * state.get('m', 0) + 0.1 * grad
    state['v'] = 0.999 * state.get('v', 0) + 0.001 * grad**2
    root = (1 - 0.999**t) ** 0.5
    length = ((state['v'] + 1e-15).sqrt() + eps) / root if of_library else state['v'].sqrt() / root + eps
    return state['m'] / (1 - 0.9**t) / length


def naive_lamb(state, p, grad, lr, decay):
    update = adam(state, grad, 1e-6) + decay * p
    return -0.1 * lr * update if p.ndim == 1 else -lr * p.norm() / update.norm() * update


def naive_adamc(state, p, grad, lr, decay):
    share = lr**2 / LR if p.ndim == 4 else lr
    return -lr * adam(state, grad, 1e-8, of_library=True) - share * decay * p


NAIVE = {'lars': (LARS, naive_lars), 'lamb': (LAMB, naive_lamb), 'adamc': (ADAMC, naive_adamc)}


@pytest.mark.parametrize('name', NAIVE)
def test_20_steps_under_a_schedule_follow_a_naive_loop(net, name):
    optimizer, naive = NAIVE[name]
    model, reference = net(), net()
    wrapper = wrap(model, optimizer, lambda_fc=FC_DECAY, groups=GROUPS[name])
    first = [group['lr'] for group in wrapper.optimizer.param_groups]
    states = [{} for _ in reference.parameters()]
    for step in range(20):
        factor = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 20))
        for group, lr in zip(wrapper.optimizer.param_groups, first):
            group['lr'] = factor * lr
        wrapper.update_params(model.loss(step))
        grads = torch.autograd.grad(reference.loss(step), [*reference.parameters()])
        if name == 'lamb':  # clips the joint gradient at 1
            joint = torch.cat([g.flatten() for g in grads]).norm()
            grads = [g / max(joint, 1.0) for g in grads]
        with torch.no_grad():
            for state, p, grad in zip(states, reference.parameters(), grads):
                decay = {1: 0.0, 2: FC_DECAY, 4: DECAY}[p.ndim]
                p.add_(naive(state, p, grad, factor * LR, decay))
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_no_group_is_flagged_and_each_has_its_decay_and_options(net):
    model = net()
    wrapper = wrap(model, LARS, lambda_fc=FC_DECAY, groups=GROUPS['lars'])
    found = [
        (len(g['params']), g['weight_decay'], g['lr'], g.get('lars_exclude', False), FLAG in g)
        for g in wrapper.optimizer.param_groups
    ]
    assert found == [
        (2, DECAY, LR, False, False),
        (1, FC_DECAY, LR, False, False),
        (5, 0.0, pytest.approx(0.1 * LR), True, False),
    ]


@pytest.mark.parametrize('of_name', [0.5, 10.0])
def test_the_learning_rate_of_a_group_and_of_a_name_multiply(net, of_name):
    model = net()
    wrapper = wrap(model, LARS, custom_keys={'1.': dict(lr_mult=of_name)}, groups=GROUPS['lars'])
    rates = {id(p): g['lr'] for g in wrapper.optimizer.param_groups for p in g['params']}
    assert rates[id(model[1].weight)] == pytest.approx(0.1 * of_name * LR)
    assert rates[id(model[4].weight)] == pytest.approx(0.1 * LR)


@pytest.mark.parametrize(
    'groups, message',
    [
        ({'bias': {}}, "there is no group 'bias'; the groups are .'norm_fixing', 'fc', 'no_decay', 'others'."),
        (
            {'others': {}},
            r"no parameter of this model is in \['others'\]; it has the groups \['norm_fixing', 'no_decay'\]",
        ),
        ({'no_decay': {'lr_mult': -1}}, r'groups.no_decay.lr_mult must be a finite number >= 0, got -1'),
        ([1], r'groups must be a dict of group -> options, got \[1\]'),
    ],
)
def test_groups_that_cannot_be_are_refused(net, groups, message):
    with pytest.raises(ConfigError, match=message):
        wrap(net(), LARS, groups=groups)


def test_an_unknown_option_is_refused_by_the_name_of_the_constructor(net):
    with pytest.raises(ConfigError, match=rf"{CONSTRUCTOR} does not know \['group'\]; it takes .*'groups'"):
        wrap(net(), LARS, group={})


def test_adamc_without_a_normalised_group_says_how_to_set_one(net):
    with pytest.raises(ConfigError, match=r"type='AdamC' .* set .*groups=dict\(norm_fixing=dict\(normalized=True\)\)"):
        wrap(net(), ADAMC)
