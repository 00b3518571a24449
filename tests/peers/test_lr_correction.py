"""The corrected learning rate: the effective rates of a recorded run, and how recordings are read."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS

from mmfixnorm.core.norm_fixing import add_step_hooks, norm_fixing_parameters
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers import LRCorrectionHook
from mmfixnorm.peers.reference_norms import read_norm_curves

SGD = dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)
NO_DECAY = dict(constructor='PerLayerGroupsOptimWrapperConstructor', paramwise_cfg=dict(lambda_fc=0.1), optimizer=SGD)
DECAY = dict(
    optimizer=SGD | dict(weight_decay=0.1),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)


@HOOKS.register_module(force=True)
class EffectiveRates(Hook):
    """Writes down, inside each step, the effective rate of each convolution; at the end, the convolutions."""

    priority = 'LOWEST'  # the learning rates are corrected when this looks

    def __init__(self, rates, weights):
        self.rates, self.weights = rates, weights

    def before_train(self, runner):
        self.convs = norm_fixing_parameters(runner.model, fc=False, frozen=True)
        add_step_hooks(runner.optim_wrapper.optimizer, self.look)

    def look(self, optimizer, args, kwargs):
        lrs = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
        self.rates.append([lrs[id(w)] / w.detach().square().sum().item() for w in self.convs.values()])

    def after_train(self, runner):
        self.weights.extend(w.detach().clone() for w in self.convs.values())


@HOOKS.register_module(force=True)
class ThawLater(Hook):
    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner):
        runner.model.backbone[0].requires_grad_(runner.epoch >= 2)


@pytest.fixture
def train(toy_runner, float64_classifier, forget_runs):
    """Trains the toy for 12 steps; returns its work dir, the effective rates of all steps, and the convolutions."""

    def train_(work_dir, wrapper, reference=None, interval=1, frozen=False):
        forget_runs()
        rates, weights = [], []
        model = float64_classifier()
        model.backbone[0].requires_grad_(not frozen or wrapper is DECAY)  # mmengine's constructor would leave it out
        hooks = [dict(type='WeightNormLoggerHook', interval=interval)]
        hooks += [dict(type='LRCorrectionHook', reference=reference)] if reference else []
        runner = toy_runner(
            work_dir,
            epochs=4,
            wrapper=wrapper,
            model=model,
            param_scheduler=[dict(type='CosineAnnealingLR', T_max=12, by_epoch=False)],
            custom_hooks=[*hooks, dict(type='EffectiveRates', rates=rates, weights=weights)]
            + [dict(type='ThawLater')] * frozen,
        )
        runner.train()
        return runner.work_dir, torch.tensor(rates, dtype=torch.float64), weights

    return train_


def angles(ones, others):
    cosines = [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in zip(ones, others)]
    return [math.acos(min(1.0, c)) for c in cosines]


@pytest.mark.parametrize('frozen', [False, True])
def test_every_effective_rate_is_that_of_the_recorded_run(train, frozen):
    work_dir, expected, _ = train('reference', DECAY, frozen=frozen)
    _, plain, _ = train('uncorrected', NO_DECAY, frozen=frozen)
    _, rates, _ = train('corrected', NO_DECAY, work_dir, frozen=frozen)
    assert expected.shape == (12, 2)
    torch.testing.assert_close(rates, expected, rtol=1e-12, atol=0)
    assert (plain / expected - 1).abs().amax(0).min() > 0.05


def test_a_weight_without_norms_in_the_reference_may_be_frozen_and_not_thawed(net, tmp_path):
    write(tmp_path, {9: 1.0}, name='another')
    model = net()
    model[3].requires_grad_(False)
    _, runner = hooked(model, tmp_path)
    runner.optim_wrapper.update_params(model.loss(0))
    model[3].requires_grad_(True)
    with pytest.raises(ConfigError, match=r'3\.weight was thawed, and .* has no norms of it'):
        runner.optim_wrapper.update_params(model.loss(1))


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_the_weights_go_where_those_of_the_recorded_run_do(train, momentum):
    sgd = dict(type='SGD', lr=0.1, momentum=momentum)
    work_dir, _, reference = train('reference', DECAY | dict(optimizer=sgd | dict(weight_decay=0.1)))
    _, _, uncorrected = train('uncorrected', NO_DECAY | dict(optimizer=sgd))
    _, _, corrected = train('corrected', NO_DECAY | dict(optimizer=sgd), work_dir)
    for off, away in zip(angles(corrected, reference), angles(uncorrected, reference)):
        assert off < away / 5


def test_recordings_far_apart_still_give_the_effective_rates_nearly(train):
    work_dir, expected, _ = train('reference', DECAY, interval=3)
    _, rates, _ = train('corrected', NO_DECAY, work_dir)
    torch.testing.assert_close(rates, expected, rtol=0.02, atol=0)


def write(folder, norms, start='20260101_000000', name='3.weight'):
    """The file of a run: step -> norm of both convolutions of the small network."""
    path = folder / start / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    lines = [{'loss': 1.0, 'weight_norm': 7.0, 'step': 1}]
    lines += [{'weight_norm/0.weight': n, f'weight_norm/{name}': 2 * n, 'step': s} for s, n in norms.items()]
    path.write_text('\n'.join(json.dumps(line) for line in lines))
    return path


def hooked(model, reference, iters=6, cfg=NO_DECAY):
    """An optim wrapper under the hook, and what stands in for the Runner."""
    runner = SimpleNamespace(model=model, optim_wrapper=build_optim_wrapper(model, cfg), max_iters=iters, iter=0)
    hook = LRCorrectionHook(str(reference))
    hook.before_train(runner)
    return hook, runner


def test_the_rate_is_corrected_and_momentum_gathers_plain_gradients(net, sgd_with_decay, tmp_path):
    write(tmp_path, {2: 1.0, 6: 0.6})
    recorded = {0: [None, None], 1: [None, None]} | {t: [1.2 - 0.1 * t, 2.4 - 0.2 * t] for t in range(2, 6)}
    model, reference = net(), net()
    starts = [w.square().sum().sqrt().item() for w in reference.convs()]
    recorded[0], recorded[1] = starts, [(a + b) / 2 for a, b in zip(starts, (1.0, 2.0))]
    hook, runner = hooked(model, tmp_path)
    rest = sgd_with_decay(reference, 0.0, 0.1, lr=0.1, momentum=0.9, nesterov=True)
    rest.param_groups[0]['lr'] = 0.0  # the convolutions are done by hand
    buffers = [torch.zeros_like(w) for w in reference.convs()]
    for t in range(6):
        runner.iter = t
        hook.before_train_iter(runner, t)
        runner.optim_wrapper.update_params(model.loss(t))
        rest.zero_grad()
        reference.loss(t).backward()
        rest.step()
        with torch.no_grad():
            for weight, buffer, norm in zip(reference.convs(), buffers, recorded[t]):
                buffer.mul_(0.9).add_(weight.grad)
                lr = 0.1 * weight.square().sum() / norm**2
                weight -= lr * (weight.grad + 0.9 * buffer)
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q)
    assert {group['lr'] for group in runner.optim_wrapper.optimizer.param_groups} == {0.1}  # put back


def test_each_weight_of_the_set_has_its_own_group_and_the_rest_as_before(net):
    model = net()
    groups = build_optim_wrapper(model, NO_DECAY).optimizer.param_groups
    joint = build_optim_wrapper(model, NO_DECAY | dict(constructor='FixNormOptimWrapperConstructor')).optimizer
    assert [g['params'] for g in groups[:2]] == [[w] for w in model.convs()]
    for group, other in zip(groups[2:], joint.param_groups[1:], strict=True):
        assert [id(p) for p in group['params']] == [id(p) for p in other['params']]
        assert group['weight_decay'] == other['weight_decay']


def test_a_norm_between_recordings_is_linear_and_starts_where_this_run_does(tmp_path):
    write(tmp_path, {10: 4.0, 20: 2.0})
    curves = read_norm_curves(str(tmp_path))
    assert [curves['0.weight'].at(t, start=6.0) for t in (0, 5, 10, 15, 20)] == [6.0, 5.0, 4.0, 3.0, 2.0]
    assert curves['3.weight'].at(15, start=1.0) == 6.0
    assert set(curves) == {'0.weight', '3.weight'}


@pytest.mark.parametrize(
    'later, expected',
    [
        ({3: 30.0, 4: 40.0}, [1.0, 2.0, 30.0, 40.0]),  # resumed after two iterations
        ({1: 10.0, 2: 20.0}, [10.0, 20.0, 20.0, 20.0]),  # began anew
    ],
)
def test_a_later_start_goes_on_or_replaces(tmp_path, later, expected):
    write(tmp_path, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    write(tmp_path, later, start='20260102_000000')
    curve = read_norm_curves(str(tmp_path))['0.weight']
    assert [curve.at(t, start=9.0) for t in (1, 2, 3, 4)] == expected


def test_a_reference_without_norms_says_how_to_record_them(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no norms of single weights in .*type='WeightNormLoggerHook', interval=1, per_layer"
    ):
        read_norm_curves(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(
    'line, message', [('{"weight_norm/a": 0.0, "step": 1}', 'weight_norm/a is 0.0'), ('{"a', 'not JSON')]
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path, {1: 1.0})
    path.write_text(path.read_text() + '\n' + line)
    with pytest.raises(ConfigError, match=f'scalars.json, line 3.*{message}'):
        read_norm_curves(str(tmp_path))


def test_a_reference_of_another_model_or_length_is_refused(net, tmp_path):
    write(tmp_path / 'other', {5: 1.0}, name='conv.weight')
    with pytest.raises(ConfigError, match=r"no norms of \['3.weight'\] \(1 of 2 layers\)"):
        hooked(net(), tmp_path / 'other')
    write(tmp_path / 'short', {1: 1.0, 4: 1.0})
    with pytest.raises(ConfigError, match='recorded up to iteration 4, this run has 6'):
        hooked(net(), tmp_path / 'short')
    hooked(net(), tmp_path / 'short', iters=5)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(optimizer=SGD), "LRCorrectionHook needs .* optim_wrapper.constructor='PerLayerGroupsOptimWrapper"),
        (NO_DECAY | dict(constructor='FixNormOptimWrapperConstructor'), 'needs a group for each layer'),
    ],
)
def test_groups_that_do_not_fit_are_refused(net, tmp_path, cfg, message):
    write(tmp_path, {9: 1.0})
    with pytest.raises(ConfigError, match=message):
        hooked(net(), tmp_path, cfg=cfg)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(toy_runner, cut_and_resumed):
    recording = [dict(type='WeightNormLoggerHook', interval=2)]
    reference = toy_runner('reference', wrapper=DECAY, custom_hooks=recording)
    reference.train()
    hooks = [dict(type='LRCorrectionHook', reference=reference.work_dir)]
    one, two = cut_and_resumed(wrapper=NO_DECAY, custom_hooks=hooks)
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    assert one['lr_correction'] == two['lr_correction']
    first = toy_runner('first', epochs=1, wrapper=NO_DECAY)
    first.train()
    again = toy_runner(
        'second', wrapper=NO_DECAY, custom_hooks=hooks, load_from=f'{first.work_dir}/epoch_1.pth', resume=True
    )
    with pytest.raises(ConfigError, match="no state 'lr_correction'"):
        again.train()
