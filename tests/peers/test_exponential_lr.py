"""The growing learning rate: the functions of the run with weight decay, step by step, in float64."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmfixnorm.core import fix_norm
from mmfixnorm.core.membership import FLAG
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers.exponential_lr import ExponentialGrowthLR, decay_alone

LR, DECAY, STEPS = 0.2, 0.01, 40
WRAPPER = dict(type='OptimWrapper', constructor='FixNormOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=0.01))


def cosine(t, low=0.0):
    return low + (LR - low) * (1 + math.cos(math.pi * t / STEPS)) / 2


# What mmengine is told, and the learning rate of iteration t in closed form.
SCHEDULES = {
    'constant': ([], lambda t: LR),
    'cosine': ([dict(type='CosineAnnealingLR', T_max=STEPS, by_epoch=False)], cosine),
    'cosine to 0.05': (
        [dict(type='CosineAnnealingLR', T_max=STEPS, eta_min=0.05, by_epoch=False)],
        lambda t: cosine(t, low=0.05),
    ),
    'steps': (
        [dict(type='MultiStepLR', milestones=[10, 25], gamma=0.1, by_epoch=False)],
        lambda t: LR * 0.1 ** ((t >= 10) + (t >= 25)),
    ),
    'warm-up from 0': (
        [dict(type='LinearLR', start_factor=1e-300, end=10, by_epoch=False)],
        lambda t: LR * min(t / 9, 1),
    ),
}


def wrap(model, momentum=0.9, optimizer=None, **kwargs):
    sgd = dict(type='SGD', lr=LR, momentum=momentum, weight_decay=0.0) | (optimizer or {})
    return build_optim_wrapper(model, dict(WRAPPER, optimizer=sgd, **kwargs))


def build(wrapper, cfgs, **kwargs):
    growth = dict(type='ExponentialGrowthLR', weight_decay=DECAY, by_epoch=False) | kwargs
    return [PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=wrapper)) for cfg in [*cfgs, growth]]


def grow(model, wrapper, schedulers, logits, skipped=(), steps=STEPS):
    """Train; return what the model says after each iteration."""
    says = []
    for t in range(steps):
        if t not in skipped:  # as a loss scaler does with an infinite gradient
            wrapper.update_params(model.loss(t))
        for scheduler in schedulers:
            scheduler.step()
        says.append(logits(model))
    return torch.stack(says)


def decay(model, optimizer, rate, logits, skipped=(), accumulate=1):
    says = []
    for t in range(STEPS):
        for group in optimizer.param_groups:
            group['lr'] = rate(t)
        if t not in skipped:
            (model.loss(t) / accumulate).backward()
            if t % accumulate == accumulate - 1:
                optimizer.step()
                optimizer.zero_grad()
        says.append(logits(model))
    return torch.stack(says)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_the_functions_are_those_of_the_run_with_decay(net, logits, sgd_with_decay, schedule, momentum):
    cfgs, rate = SCHEDULES[schedule]
    model, reference = net(), net()
    wrapper = wrap(model, momentum)
    says = grow(model, wrapper, build(wrapper, cfgs), logits)
    expected = decay(reference, sgd_with_decay(reference, DECAY, 0.01, lr=LR, momentum=momentum), rate, logits)
    torch.testing.assert_close(says, expected, rtol=1e-8, atol=1e-8)
    for ours, theirs in zip(model.convs(), reference.convs()):
        assert ours.norm() > theirs.norm()


def test_without_it_the_functions_are_others(net, logits, sgd_with_decay):
    model, reference = net(), net()
    says = grow(model, wrap(model), [], logits)
    expected = decay(reference, sgd_with_decay(reference, DECAY, 0.01, lr=LR, momentum=0.9), lambda t: LR, logits)
    assert (says - expected).abs().max() > 1e-2


def test_skipped_steps_do_not_disturb_it(net, logits, sgd_with_decay):
    cfgs, rate = SCHEDULES['cosine']
    model, reference = net(), net()
    wrapper = wrap(model)
    says = grow(model, wrapper, build(wrapper, cfgs), logits, skipped={2, 3, 17})
    optimizer = sgd_with_decay(reference, DECAY, 0.01, lr=LR, momentum=0.9)
    expected = decay(reference, optimizer, rate, logits, skipped={2, 3, 17})
    torch.testing.assert_close(says, expected, rtol=1e-8, atol=1e-8)


def test_accumulation_does_not_disturb_it(net, logits, sgd_with_decay):
    cfgs, rate = SCHEDULES['cosine']
    model, reference = net(), net()
    wrapper = wrap(model, accumulative_counts=4)
    wrapper.initialize_count_status(model, 0, STEPS)
    says = grow(model, wrapper, build(wrapper, cfgs), logits)
    optimizer = sgd_with_decay(reference, DECAY, 0.01, lr=LR, momentum=0.9)
    expected = decay(reference, optimizer, rate, logits, accumulate=4)
    torch.testing.assert_close(says, expected, rtol=1e-8, atol=1e-8)


def test_a_scheduler_that_acts_after_it_is_taken_into_account(net, logits, sgd_with_decay):
    cfgs, rate = SCHEDULES['steps']
    model, reference = net(), net()
    wrapper = wrap(model)
    says = grow(model, wrapper, build(wrapper, cfgs)[::-1], logits)  # as one by epoch is
    expected = decay(reference, sgd_with_decay(reference, DECAY, 0.01, lr=LR, momentum=0.9), rate, logits)
    torch.testing.assert_close(says, expected, rtol=1e-8, atol=1e-8)


def test_constant_rates_grow_by_the_root_of_the_paper(net, logits):
    model = net()
    wrapper = wrap(model)
    schedulers = build(wrapper, [])
    grow(model, wrapper, schedulers, logits, steps=300)
    before = schedulers[-1].get_last_value()[0]
    grow(model, wrapper, schedulers, logits, steps=1)
    half = 1 + 0.9 - DECAY * LR
    alpha = (half + math.sqrt(half**2 - 4 * 0.9)) / 2
    assert schedulers[-1].get_last_value()[0] / before == pytest.approx(alpha**-2, rel=1e-7)


def test_only_the_set_grows(net, logits):
    model = net()
    wrapper = wrap(model)
    grow(model, wrapper, build(wrapper, SCHEDULES['cosine'][0]), logits, steps=20)
    for group in wrapper.optimizer.param_groups:
        if group.get(FLAG):
            assert group['lr'] > 1.1 * cosine(20)
            assert group['weight_decay'] == 0
        else:
            assert group['lr'] == pytest.approx(cosine(20))
    assert {g['weight_decay'] for g in wrapper.optimizer.param_groups} == {0.0, 0.01}


def test_putting_norms_back_changes_no_bit_of_the_function(net, logits):
    says, norms = [], []
    for rescale_at in (2.0**32, 2.0):
        model = net()
        wrapper = wrap(model)
        says.append(grow(model, wrapper, build(wrapper, [], rescale_at=rescale_at), logits, steps=120))
        norms.append(model.convs()[0].norm().item())
    assert torch.equal(*says)
    assert norms[0] / norms[1] == 2 ** round(math.log2(norms[0] / norms[1])) >= 8


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('of_late', [1.0, 0.5], ids=['one group', 'two groups'])
@pytest.mark.parametrize('rescale_at', [2.0**32, 2.0])
def test_a_weight_that_is_thawed_late_follows_the_run_with_decay(net, logits, momentum, of_late, rescale_at):
    late = {'3.weight': dict(lr_mult=of_late), '4.': dict(lr_mult=of_late)}  # 4. has the schedule without growth
    decay = 0.01 if momentum else 0.1
    model, reference = net(), net()
    model[3].weight.requires_grad_(False)
    wrapper = wrap(model, momentum, paramwise_cfg=dict(lambda_fc=0.0, custom_keys=late))
    schedulers = build(wrapper, [], weight_decay=decay, rescale_at=rescale_at)
    optimizer = torch.optim.SGD(
        [
            dict(params=[p], weight_decay=decay if p.ndim == 4 else 0.0, lr=LR * (of_late if name[0] in '34' else 1))
            for name, p in reference.named_parameters()
        ],
        momentum=momentum,
        lr=LR,
    )
    start = model[3].weight.detach().clone()
    for step in range(80):
        for each in (model, reference):
            each[3].weight.requires_grad_(step >= 50)
        assert step > 50 or torch.equal(model[3].weight, start)
        grow(model, wrapper, schedulers, logits, steps=1)
        optimizer.zero_grad()
        reference.loss(0).backward()
        optimizer.step()
        torch.testing.assert_close(logits(model), logits(reference), rtol=1e-8, atol=1e-8)


def test_a_state_that_does_not_say_which_weights_have_trained_is_continued(net, logits):
    says = []
    for is_early in (False, True):
        model = net()
        wrapper = wrap(model)
        schedulers = build(wrapper, [])
        grow(model, wrapper, schedulers, logits, steps=5)
        if is_early:
            schedulers[-1].started = {}
        says.append(grow(model, wrapper, schedulers, logits, steps=5))
    assert torch.equal(*says)


def test_norm_fixing_besides_is_refused(net):
    cfg = dict(WRAPPER, type='FixNormOptimWrapper', optimizer=dict(type='SGD', lr=LR))
    with pytest.raises(ConfigError, match="does not work with norm fixing: set optim_wrapper.type='OptimWrapper'"):
        ExponentialGrowthLR(build_optim_wrapper(net(), cfg), DECAY)
    model = net()
    wrapper = wrap(model)
    ExponentialGrowthLR(wrapper, DECAY)
    fix_norm(wrapper.optimizer, model=model)  # as FixNormHook does later
    with pytest.raises(ConfigError, match='does not work with norm fixing: .* remove FixNormHook'):
        wrapper.update_params(model.loss(0))


def test_decay_alone_is_sgd_on_half_a_square():
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=0.8)
    length, velocity = 1.0, 0.0
    for _ in range(20):
        optimizer.zero_grad()
        (0.05 * weight.square().sum() / 2).backward()
        optimizer.step()
        length, velocity = decay_alone(length, velocity, lr=0.3, weight_decay=0.05, momentum=0.8)
        assert length == pytest.approx(weight.item(), rel=1e-12)


TOY = dict(WRAPPER, optimizer=dict(type='SGD', lr=0.1, momentum=0.9))


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut_and_resumed):
    schedule = [dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)]
    schedule.append(dict(type='ExponentialGrowthLR', weight_decay=0.1, by_epoch=False))
    one, two = cut_and_resumed(wrapper=TOY, param_scheduler=schedule)
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    assert one['param_schedulers'][-1]['decays'] == two['param_schedulers'][-1]['decays']
    assert one['param_schedulers'][-1]['decays'][0][0] < 0.99


def test_resume_from_a_run_that_did_not_grow_is_refused(toy_runner):
    first = toy_runner('first', epochs=1, wrapper=TOY)
    first.train()
    again = toy_runner(
        'again',
        wrapper=TOY,
        param_scheduler=[dict(type='ExponentialGrowthLR', weight_decay=0.1, by_epoch=False)],
        load_from=f'{first.work_dir}/epoch_1.pth',
        resume=True,
    )
    with pytest.raises(ConfigError, match='Use load_from instead of resume'):
        again.train()


@pytest.mark.parametrize(
    'optimizer, kwargs, message',
    [
        (dict(nesterov=True), {}, 'no equivalent exists for SGD with nesterov; set optimizer.nesterov=False'),
        (dict(dampening=0.1), {}, 'no equivalent exists for SGD with dampening'),
        ({}, dict(by_epoch=True), 'needs by_epoch=False'),
        ({}, dict(begin=10), 'begin=0'),
        ({}, dict(weight_decay=0.0), 'weight_decay must be finite and > 0, got 0.0'),
        ({}, dict(weight_decay=math.inf), 'got inf'),
        ({}, dict(weight_decay=20.0), 'changes a weight of norm 1 to -3'),
        ({}, dict(rescale_at=1.0), 'rescale_at must be >= 2, got 1.0'),
    ],
)
def test_what_has_no_equivalent_is_refused(net, optimizer, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ExponentialGrowthLR(wrap(net(), optimizer=optimizer), **dict(weight_decay=DECAY) | kwargs)


def test_an_adaptive_optimizer_is_refused(net):
    wrapper = build_optim_wrapper(net(), dict(WRAPPER, optimizer=dict(type='Adam', lr=0.1)))
    with pytest.raises(ConfigError, match='needs optimizer.type=SGD, got Adam'):
        ExponentialGrowthLR(wrapper, DECAY)


def test_groups_without_flags_or_with_decay_are_refused(net):
    plain = build_optim_wrapper(net(), dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(ConfigError, match="set optim_wrapper.constructor='FixNormOptimWrapperConstructor'"):
        ExponentialGrowthLR(plain, DECAY)
    wrapper = wrap(net())
    next(g for g in wrapper.optimizer.param_groups if g.get(FLAG))['weight_decay'] = 0.1
    with pytest.raises(ConfigError, match=r'replaces weight decay on its weights, .* \[0.1\]'):
        ExponentialGrowthLR(wrapper, DECAY)


def test_a_set_with_a_rate_of_its_own_is_refused(net):
    wrapper = wrap(net(), paramwise_cfg=dict(lambda_fc=0.0, custom_keys={'0.weight': dict(lr_mult=0.5)}))
    with pytest.raises(ConfigError, match=r'same base learning rate \(0.1\)'):
        ExponentialGrowthLR(wrapper, DECAY)
