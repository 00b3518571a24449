"""Norm fixing in the two runners of mmengine, against the plain loop of reference.py."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner, Runner

from mmfixnorm.errors import ConfigError
from tests.regimes import reference
from tests.regimes.toy import SGD, WRAPPER, batches, net, start_of


def expected(start, **kwargs):
    return reference.train(start, batches(), reference.sgd(), **kwargs)


def test_flexible_runner_follows_the_reference(run_epoch, record):
    model = net()
    start = start_of(model)
    record('flexible_runner', run_epoch(model, FlexibleRunner), expected(start))


def test_hook_with_a_stock_wrapper_follows_the_reference(run_epoch, record):
    model = net()
    start = start_of(model)
    wrapper = dict(type='OptimWrapper', optimizer=SGD)
    record('hook', run_epoch(model, wrapper=wrapper, hooks=[dict(type='FixNormHook')]), expected(start))


def test_flexible_runner_fills_scales_that_were_written_around(run_epoch):
    """It calls the wrapper at no point between the initialisation and the first step."""
    model = net()
    model.init_weights = lambda: (model.head.weight.data.mul_(3), setattr(model, '_is_init', True))
    run_epoch(model, FlexibleRunner, wrapper=WRAPPER | dict(optimizer=dict(SGD, lr=1e-12)))
    torch.testing.assert_close(model.head.g.item(), model.head.weight.norm().item(), rtol=1e-9, atol=0)


TARGETS = {'load_from_loaded': 'loaded', 'load_from_init': 'init', 'load_from_number': 2.5}


@pytest.mark.parametrize('by', ['wrapper', 'hook', 'flexible'])
@pytest.mark.parametrize('row', TARGETS)
def test_target_after_load_from_is_that_of_the_policy(row, by, run_epoch, record, tmp_path):
    model, other = net(), net(seed=7)
    with torch.no_grad():
        for name in reference.SET:
            other.get_parameter(name).mul_(3)
    torch.save(dict(state_dict=other.state_dict(), meta={}), tmp_path / 'other.pth')
    norms = {
        'loaded': None,
        'init': reference.joint_norm([model.get_parameter(name) for name in reference.SET]),
        2.5: 2.5,
    }
    target = TARGETS[row]
    config = dict(wrapper=WRAPPER | dict(target=target))
    if by == 'hook':
        config = dict(wrapper=dict(optimizer=SGD), hooks=[dict(type='FixNormHook', target=target)])
    runner = FlexibleRunner if by == 'flexible' else Runner
    actual = run_epoch(model, runner, load_from=str(tmp_path / 'other.pth'), **config)
    record(row, actual, expected(start_of(other), target=norms[target]))


@pytest.mark.parametrize('target', ['other', -1.0, math.nan])
def test_another_target_is_refused_with_its_key(run_epoch, target):
    with pytest.raises(ConfigError, match=r'optim_wrapper\.target must be'):
        run_epoch(net(), wrapper=WRAPPER | dict(target=target))
    with pytest.raises(ConfigError, match=r'FixNormHook\.target must be'):
        run_epoch(net(), wrapper=dict(optimizer=SGD), hooks=[dict(type='FixNormHook', target=target)])


MOMENTUM = 0.3


def test_validation_of_an_average_sees_it_at_the_target(run_epoch, record):
    """The average by hand in float64, and its set brought to the target."""
    seen = {}

    @HOOKS.register_module(name='SeenAverage', force=True)
    class SeenAverage(Hook):
        priority = 'LOWEST'

        def after_train(self, runner):
            (ema,) = [hook for hook in runner.hooks if hasattr(hook, 'ema_model')]
            ema.before_val_epoch(runner)
            seen.update(start_of(runner.model))
            ema.after_val_epoch(runner)

    model = net()
    start = start_of(model)
    run_epoch(model, hooks=[dict(type='FixNormEMAHook', momentum=MOMENTUM), dict(type='SeenAverage')])
    average = None
    for steps in range(1, 7):  # mmengine's average starts as a copy after the first step
        weights = reference.train(start, batches()[:steps], reference.sgd())
        average = average or weights
        average = {n: (1 - MOMENTUM) * average[n] + MOMENTUM * w for n, w in weights.items()}
    target = reference.joint_norm([start[n] for n in reference.SET])
    short = reference.joint_norm([average[n] for n in reference.SET])
    assert short < 0.99 * target
    average.update({n: average[n] * target / short for n in reference.SET})
    record('ema', seen, average)


@HOOKS.register_module(force=True)
class _ThawHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.backbone[0].weight.requires_grad_(batch_idx >= 3)


def test_hook_lets_a_thawed_layer_join(run_epoch, record):
    model = net()
    start = start_of(model)
    hooks = [dict(type='FixNormHook'), dict(type='_ThawHook')]
    actual = run_epoch(model, wrapper=dict(type='OptimWrapper', optimizer=SGD), hooks=hooks)
    record('thawed_hook', actual, expected(start, frozen_until={'backbone.0.weight': 3}))
