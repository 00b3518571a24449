"""Steps of a given angle under each way of training in one process, against the plain loop of reference.py."""

import copy
import functools
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import HOOKS
from torch import nn

from tests.regimes import reference
from tests.regimes.toy import WRAPPER, batches, data_of, net, start_of, wrap

TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
ANGLE = 0.05
FIRST = 'backbone.0.weight'
SGD = dict(type='SGD', lr=ANGLE, momentum=0.9, nesterov=True)


def by_angle(model, optimizer=SGD, **kwargs):
    return wrap(model, optimizer, **{'update': 'angle', **kwargs})


def expected(start, data, per='layer', make=reference.sgd, **kwargs):
    update = reference.by_group(make(lr=ANGLE), make(lr=20 * ANGLE))
    return reference.train(start, data, update, angle=(ANGLE, per), **kwargs)


def run(model, wrapper, data):
    for batch in data:
        model.train_step(data_of(batch), wrapper)
    return start_of(model)


@pytest.mark.parametrize('per', ['set', 'layer', 'filter'])
def test_each_unit_follows_the_reference(per, record):
    model = net()
    start, data = start_of(model), batches()
    record(f'angle_{per}', run(model, by_angle(model, per=per), data), expected(start, data, per))


def test_adamw_follows_the_reference(record):
    model = net()
    start, data = start_of(model), batches()
    adamw = dict(type='AdamW', lr=ANGLE, weight_decay=0)
    record('angle_adamw', run(model, by_angle(model, adamw), data), expected(start, data, make=reference.adamw))


def test_accumulation_makes_one_turn(record):
    model = net()
    start, data = start_of(model), batches(size=12)
    wrapper = by_angle(model, accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 3 * len(data))
    for x, y in data:
        for chunk in zip(x.chunk(3), y.chunk(3)):
            model.train_step(data_of(chunk), wrapper)
    record('angle_accumulation', start_of(model), expected(start, data, chunks=3))


def test_clipping_leaves_the_angle(record):
    model = net()
    start, data = start_of(model), batches()
    actual = run(model, by_angle(model, clip_grad=dict(max_norm=0.05)), data)
    record('angle_clipping', actual, expected(start, data, clip=0.05), bound=1e-5)  # torch divides by the norm + 1e-6


@pytest.mark.skipif(TORCH < (2, 4), reason='torch has a loss scaler, and a fused SGD, for the CPU from 2.4 on')
@pytest.mark.parametrize('row, skipped', [('angle_amp', (0, 3)), ('angle_amp_fused', (1, 3))])
def test_steps_that_the_loss_scaler_skips(row, skipped, record, monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = functools.partial(torch.amp.GradScaler, device='cpu', init_scale=8.0)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    model = net()
    start, data = start_of(model), batches()
    wrapper = by_angle(model, SGD | dict(fused=row == 'angle_amp_fused'), type='FixNormAmpOptimWrapper')
    for number, batch in enumerate(data):
        before = start_of(model)
        wrapper.update_params(model(**data_of(batch), mode='loss')['loss'] * (math.inf if number in skipped else 1.0))
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters()) == (number in skipped)
    record(row, start_of(model), expected(start, data, skipped=skipped))


def test_a_thawed_layer_turns_from_then_on(record):
    model = net()
    start, data, wrapper, norms = start_of(model), batches(), by_angle(model), []
    for number, batch in enumerate(data):
        model.backbone[0].weight.requires_grad_(number >= 3)
        model.train_step(data_of(batch), wrapper)
    record('angle_thawed', start_of(model), expected(start, data, frozen_until={FIRST: 3}, norms=norms))
    assert norms == pytest.approx([norms[0]] * 6, rel=1e-12)


@pytest.mark.parametrize('stop', [1, 2, 4, 5])
def test_a_resumed_run_has_the_same_bits(record, stop):
    model = net()
    start, data, wrapper = start_of(model), batches(), by_angle(model)
    run(model, wrapper, data[:stop])
    weights, state = copy.deepcopy((model.state_dict(), wrapper.state_dict()))
    run(model, wrapper, data[stop:])
    again = net()
    again_wrapper = by_angle(again)
    again.load_state_dict(weights)
    again_wrapper.load_state_dict(state)
    run(again, again_wrapper, data[stop:])
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters()))
    record('angle_resumed', start_of(again), expected(start, data))


def test_a_shared_layer_turns_once(record):
    model = net()
    model.head.twin = nn.Linear(6, 3, bias=False, dtype=torch.float64)
    model.head.twin.weight = model.head.weight
    start, data = start_of(model), batches()
    record('angle_shared', run(model, by_angle(model), data), expected(start, data))


@HOOKS.register_module(force=True)
class _SeesAverage(Hook):
    priority = 'LOWEST'
    seen: dict = {}

    def after_train(self, runner):
        ema = [hook for hook in runner.hooks if hasattr(hook, 'ema_model')]
        for hook in ema:
            hook.before_val_epoch(runner)
        self.seen.update(start_of(runner.model))
        for hook in ema:
            hook.after_val_epoch(runner)


def test_hook_with_a_stock_wrapper_follows_the_reference(record, run_epoch):
    model = net()
    start = start_of(model)
    outside = ['backbone.1', 'backbone.4', 'head.g', 'head.bias']
    wrapper = dict(
        type='OptimWrapper', optimizer=SGD, paramwise_cfg=dict(custom_keys={name: dict(lr_mult=20) for name in outside})
    )
    actual = run_epoch(model, wrapper=wrapper, hooks=[dict(type='FixNormHook', update='angle')])
    record('angle_hook', actual, expected(start, batches()))


def test_the_average_has_the_norm_of_the_set(record, run_epoch):
    model = net()
    start = start_of(model)
    wrapper = WRAPPER | dict(optimizer=SGD, update='angle')
    run_epoch(model, wrapper=wrapper, hooks=[dict(type='FixNormEMAHook', momentum=0.5), dict(type='_SeesAverage')])
    seen = _SeesAverage.seen
    average = None
    for steps in range(1, 7):
        weights = expected(start, batches()[:steps])
        average = average or weights
        average = {n: 0.5 * average[n] + 0.5 * w for n, w in weights.items()}
    factor = reference.joint_norm([start[n] for n in reference.SET]) / reference.joint_norm(
        [average[n] for n in reference.SET]
    )
    average.update({n: average[n] * factor for n in reference.SET})
    record('angle_ema', seen, average)
