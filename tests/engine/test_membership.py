"""Which weights the norm-fixing set has, through freezing, thawing, late branches and resumed runs."""

import copy
import logging

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from torch import nn

from mmfixnorm.core import NormFixer, fix_norm
from mmfixnorm.core.membership import FLAG, WAITING, places
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers import PerLayerFixNormOptimWrapper  # noqa: F401

WRAPPER = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
SGD = dict(type='SGD', lr=0.1, momentum=0.9)


def norm(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors]).norm().item()


def convs(model):
    return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


@HOOKS.register_module(force=True)
class _ThawAfterFirstEpoch(Hook):
    """Freezes the backbone for the first epoch, and writes down the norm of all weights after each iteration."""

    norms: list[float] = []

    def before_train_epoch(self, runner):
        for param in runner.model.backbone.parameters():
            param.requires_grad_(runner.epoch >= 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.norms.append(norm(convs(runner.model)))


@pytest.mark.parametrize('wrapper', [WRAPPER, dict(type='OptimWrapper')], ids=['wrapper', 'hook'])
@pytest.mark.parametrize('at_build', [True, False], ids=['frozen_at_build', 'frozen_by_hook'])
def test_backbone_frozen_for_the_first_of_12_epochs(toy_runner, toy_classifier, wrapper, at_build):
    def train(work_dir, epochs=12, **kwargs):
        _ThawAfterFirstEpoch.norms = []
        model = toy_classifier()
        model.init_weights()
        model._is_init = True
        for param in model.backbone.parameters():
            param.requires_grad_(not at_build)
        start = norm(convs(model))
        hooks = [dict(type='_ThawAfterFirstEpoch'), dict(type='EpochSeedHook')]
        hooks += [dict(type='FixNormHook')] if wrapper['type'] == 'OptimWrapper' else []
        runner = toy_runner(work_dir, epochs, dict(wrapper), model=model, custom_hooks=hooks, **kwargs)
        runner.train()
        return start, runner

    start, runner = train('whole')
    assert len(_ThawAfterFirstEpoch.norms) == 36
    assert _ThawAfterFirstEpoch.norms == pytest.approx([start] * 36, rel=1e-5)
    whole = runner.model.state_dict()
    for stop in (1, 6):  # before the backbone is thawed, and after
        resumed = train(f'resumed_{stop}', resume=True, load_from=f'{runner.work_dir}/epoch_{stop}.pth')[1]
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, whole[name]), name


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))


def step(model, optimizer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    (
        model(torch.randn(8, 1, 6, 6, generator=generator)) * torch.randn(8, 3, 2, 2, generator=generator)
    ).sum().backward()
    optimizer.step()


def test_each_change_is_one_line_with_names(caplog):
    model = small_net()
    first, second = model[0].weight, model[3].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fix_norm(optimizer, model=model)
    moving = [(False, True), (False, True), (True, True), (True, False), (True, False), (True, True), (False, True)]
    with caplog.at_level(logging.WARNING, 'mmfixnorm'):
        lines = []
        for number, (one, two) in enumerate(moving):
            caplog.clear()
            first.requires_grad_(one)
            second.requires_grad_(two)
            step(model, optimizer, number)
            lines.append([record.message for record in caplog.records])
    waits, nothing, joins, held, _, again, first_held = lines
    assert waits == [
        'Norm fixing: will join with the first step that moves them (frozen, or unused so far): 1 weight, 0.weight'
    ]
    assert nothing == []
    assert joins == ['Norm fixing: joined, and their norm joined the target: 1 weight, 0.weight']
    assert [line.rpartition(': ')[2] for line in held] == ['1 weight, 3.weight']
    assert again == ['Norm fixing: moved again: 1 weight, 3.weight']
    assert [line.rpartition(': ')[2] for line in first_held] == ['1 weight, 0.weight']


def test_a_step_that_moves_nothing_is_said_and_changes_nothing(caplog):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm_fixer = fix_norm(optimizer, model=model)
    with caplog.at_level(logging.WARNING, 'mmfixnorm'):
        optimizer.step()
        optimizer.step()
    assert ['nothing to fix yet' in record.message for record in caplog.records] == [True]
    assert norm_fixer.target is None
    start = norm(convs(model))
    step(model, optimizer)
    assert norm_fixer.target == pytest.approx(start, rel=1e-6)


def test_warm_up_from_learning_rate_0_reports_nothing(caplog):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fix_norm(optimizer, model=model)
    start = norm(convs(model))
    with caplog.at_level(logging.WARNING, 'mmfixnorm'):
        for number, lr in enumerate([0.1, 0.0, 0.1]):
            optimizer.param_groups[0]['lr'] = lr
            step(model, optimizer, number)
    assert not caplog.records
    assert norm(convs(model)) == pytest.approx(start, rel=1e-6)


def test_held_weights_longer_than_the_target_are_refused():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fix_norm(optimizer, model=model, target=1.0)
    step(model, optimizer)
    with torch.no_grad():
        model[0].weight.mul_(10)
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match='leaves nothing of the target 1.0 to the rest'):
        step(model, optimizer, 1)


def test_target_init_counts_a_late_weight_when_it_joins():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm_fixer = fix_norm(optimizer, model=model, target='init')
    first, start = norm([model[0].weight]), norm([model[3].weight])
    with torch.no_grad():
        model[3].weight.mul_(7)  # as a checkpoint that is loaded
    model[0].weight.requires_grad_(False)
    step(model, optimizer)
    assert norm([model[3].weight]) == pytest.approx(start, rel=1e-6)
    model[0].weight.requires_grad_(True)
    step(model, optimizer, 1)
    assert norm_fixer.target == pytest.approx((first**2 + start**2) ** 0.5, rel=1e-6)


def test_frozen_weights_outside_the_optimizer_are_in_no_set():
    model = small_net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    fix_norm(optimizer, model=model)
    assert [id(t) for t in places(optimizer, FLAG, WAITING).values()] == [id(model[3].weight)]


def build(model, optimizer=SGD, **options):
    return build_optim_wrapper(model, {**WRAPPER, 'optimizer': optimizer, 'paramwise_cfg': options})


class WithOneDimension(nn.Module):
    """A frozen convolution, and parameters of one dimension that no name gives away."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.lstm = nn.LSTM(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.position = nn.Parameter(torch.ones(1, 4))
        self.stem.requires_grad_(False)


def test_parameters_of_one_dimension_are_not_decayed():
    model = WithOneDimension()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build(model, SGD | dict(weight_decay=0.01)).optimizer.param_groups
    decayed = {names[id(p)] for g in groups if g['weight_decay'] for p in g['params']}
    expected = {'attention.in_proj_weight', 'lstm.weight_ih_l0', 'lstm.weight_hh_l0', 'position'}
    assert decayed == expected


def first_groups(model):
    """The parameter groups of the first version, written down by hand."""
    decayed = [p for n, p in model.named_parameters() if not n.startswith(('stem', 'conv')) and 'out_proj' not in n]
    plain = [model.conv.bias, model.attention.out_proj.bias]
    in_set = [model.conv.weight, model.attention.out_proj.weight]
    order = {id(p): i for i, p in enumerate(model.parameters())}
    return [
        dict(params=in_set, fix_norm=True, weight_decay=0.0),
        dict(params=plain, weight_decay=0.0),
        dict(params=sorted(decayed, key=lambda p: order[id(p)])),
    ]


def test_a_checkpoint_with_the_first_groups_continues_with_them(capsys):
    model = WithOneDimension()
    optimizer = torch.optim.SGD(first_groups(model), lr=0.1, momentum=0.9, weight_decay=0.01)
    norm_fixer = NormFixer()
    norm_fixer.install(optimizer)

    def train(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
        optimizer.step()

    train(model, optimizer, 0)
    state = copy.deepcopy({**optimizer.state_dict(), 'fix_norm': norm_fixer.state_dict()})
    resumed = copy.deepcopy(model)
    wrapper = build(resumed, SGD | dict(weight_decay=0.01))
    wrapper.load_state_dict(state)
    assert 'continues with its parameter groups' in capsys.readouterr().out
    for seed in (1, 2):
        train(model, optimizer, seed)
        wrapper.norm_fixer.install(wrapper.optimizer)
        train(resumed, wrapper.optimizer, seed)
    for (name, p), q in zip(model.named_parameters(), resumed.parameters()):
        assert torch.equal(p, q), name
    resumed.conv.requires_grad_(False)
    train(resumed, wrapper.optimizer, 3)
    held = next(line for line in capsys.readouterr().out.splitlines() if 'Norm fixing: held' in line)
    assert held.endswith('1 weight, conv.weight')
    resumed.conv.requires_grad_(True)

    def sizes_after_resume(state):
        again = build(copy.deepcopy(resumed), SGD | dict(weight_decay=0.01))
        again.load_state_dict(copy.deepcopy(state))
        return [len(group['params']) for group in again.optimizer.param_groups]

    assert sizes_after_resume(wrapper.state_dict()) == [2, 2, 8]
    present = build(copy.deepcopy(resumed), SGD | dict(weight_decay=0.01))
    assert sizes_after_resume(present.state_dict()) == [3, 7, 4]


def test_lazy_modules_build_and_keep_their_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))
    wrapper = build(model)
    model(torch.randn(2, 1, 6, 6))  # makes the weights
    start = norm(convs(model))
    wrapper.norm_fixer.install(wrapper.optimizer)
    for number in range(3):
        step(model, wrapper.optimizer, number)
    assert norm(convs(model)) == pytest.approx(start, rel=1e-6)


def test_lr_mult_without_a_learning_rate_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r'custom_keys: lr_mult needs a number as optim_wrapper.optimizer.lr'):
        build(small_net(), dict(type='Adadelta'), custom_keys={'0': dict(lr_mult=2)})


def test_frozen_backbone_alone_is_refused_with_the_way_out():
    model = small_net()
    model[0].weight.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r'set is empty.*2 are frozen; freeze them in a hook'):
        build(model)


@pytest.mark.parametrize('targets', ['init', 'equal'])
def test_a_late_weight_keeps_a_norm_of_its_own_per_layer(targets):
    model = small_net()
    wrapper = build_optim_wrapper(
        model, {**WRAPPER, 'type': 'PerLayerFixNormOptimWrapper', 'targets': targets, 'optimizer': SGD}
    )
    starts = [norm([w]) for w in convs(model)]
    wrapper.norm_fixer.install(wrapper.optimizer)
    model[0].weight.requires_grad_(False)
    step(model, wrapper.optimizer)
    model[0].weight.requires_grad_(True)
    if targets == 'equal':
        with pytest.raises(ValueError, match="1 weights move only after it .* set targets='init'"):
            step(model, wrapper.optimizer, 1)
        return
    step(model, wrapper.optimizer, 1)
    assert [norm([w]) for w in convs(model)] == pytest.approx(starts, rel=1e-6)
