"""Norm fixing layer by layer, and that it is told apart from norm fixing of the whole set."""

import copy as copy_
import inspect
import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmfixnorm.core.membership import flag_set, flagged
from mmfixnorm.peers import TensorNormFixer

SGD = dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True)
PER_LAYER = dict(type='PerLayerFixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
JOINT = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
ALG1 = dict(paramwise_cfg=dict(lambda_fc=1e-4))
#: targets -> what each of the three weights of `net` gets of the joint norm, relative to the others
SHARES = {
    'init': ('init', lambda starts: starts),
    'equal': ('equal', lambda starts: [1.0] * len(starts)),
    'set': ({r'^0\.': 0.5, r'^3\.': 4}, lambda starts: [0.5 * starts[0], 4 * starts[1], *starts[2:]]),
}
every_choice = pytest.mark.parametrize('targets, shares', SHARES.values(), ids=SHARES)


def wrap(model, **kwargs):
    return build_optim_wrapper(model, PER_LAYER | dict(optimizer=SGD) | kwargs)


def norms(tensors):
    return [t.detach().double().square().sum().sqrt().item() for t in tensors]


@pytest.mark.parametrize('wrapper, kept', [(PER_LAYER, True), (JOINT, False)])
def test_each_weight_keeps_its_norm(net, wrapper, kept):
    model = net()
    optim_wrapper = build_optim_wrapper(model, wrapper | dict(optimizer=SGD))
    weights = [*model.convs(), model[7].weight]
    starts = norms(weights)
    for i in range(20):
        optim_wrapper.update_params(model.loss(i))
        assert math.hypot(*norms(weights)) == pytest.approx(math.hypot(*starts), rel=1e-9)
    assert (norms(weights) == pytest.approx(starts, rel=1e-9)) == kept


def test_steps_match_a_reference_that_normalises_after_sgd(net):
    model, reference = net(), net()
    wrapper = wrap(model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    weights = [*reference.convs(), reference[7].weight]
    starts = norms(weights)
    for i in range(10):
        wrapper.update_params(model.loss(i))
        optimizer.zero_grad()
        reference.loss(i).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, start in zip(weights, starts):
                weight *= start / weight.square().sum().sqrt()
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@every_choice
@pytest.mark.parametrize('form', [{}, ALG1], ids=['fixnorm', 'alg1'])
def test_the_chosen_norms_are_there_after_the_first_step_and_stay_and_their_joint_norm_is_the_first(
    net, targets, shares, form
):
    model = net()
    weights = [*model.convs(), *([] if form else [model[7].weight])]
    starts = norms(weights)
    wrapper = wrap(model, targets=targets, **form)
    expected = [share / math.hypot(*shares(starts)) * math.hypot(*starts) for share in shares(starts)]
    for i in range(5):
        wrapper.update_params(model.loss(i))
        assert norms(weights) == pytest.approx(expected, rel=1e-9)
        assert math.hypot(*norms(weights)) == pytest.approx(math.hypot(*starts), rel=1e-9)
    assert (norms(weights) == pytest.approx(starts, rel=1e-3)) == (targets == 'init')


@every_choice
def test_steps_to_chosen_norms_match_a_reference_that_normalises_after_sgd(net, targets, shares):
    model, reference = net(), net()
    wrapper = wrap(model, targets=targets, **ALG1)
    weights = reference.convs()
    starts = norms(weights)
    wanted = [share / math.hypot(*shares(starts)) * math.hypot(*starts) for share in shares(starts)]
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    for i in range(10):
        wrapper.update_params(model.loss(i))
        optimizer.zero_grad()
        (reference.loss(i) + 0.5e-4 * reference[7].weight.square().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, norm in zip(weights, wanted):
                weight *= norm / weight.square().sum().sqrt()
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_a_layer_turns_by_its_effective_learning_rate(net):
    """Whatever its norm, the turn times the squared norm is the same (eq. 4)."""
    found, turns = [], []
    for targets, _ in SHARES.values():
        model = net()
        wrapper = wrap(model, targets=targets, optimizer=dict(type='SGD', lr=1e-5), **ALG1)
        wrapper.update_params(model.loss(0))  # brings the weights to their norms
        before = model[3].weight.detach() / model[3].weight.norm()
        wrapper.update_params(model.loss(1))
        found += norms([model[3].weight])
        turns.append((model[3].weight / model[3].weight.norm() - before).norm().item())
    assert max(found) > 1.2 * min(found)
    assert [turn * norm**2 for turn, norm in zip(turns, found)] == pytest.approx([turns[0] * found[0] ** 2] * 3, 1e-3)


def test_accumulation_leaves_weights_alone(net):
    model = net()
    wrapper = wrap(model, accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 9)
    for i in range(9):
        before = [p.clone() for p in model.parameters()]
        wrapper.update_params(model.loss(i))
        assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before)) == (i % 3 == 2)


def test_a_fused_step_with_infinite_gradients_changes_no_bit(net):
    if 'fused' not in inspect.signature(torch.optim.SGD).parameters:
        pytest.skip(f'torch {torch.__version__} has no fused SGD')
    model = net().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    flag_set(optimizer, model.convs())
    norm_fixer = TensorNormFixer()
    norm_fixer.install(optimizer)
    x = torch.randn(8, 1, 8, 8)
    model(x).square().mean().backward()
    optimizer.step()
    norm_fixer.norms = [2 * norm for norm in norm_fixer.norms]  # so that fixing, were it done, would be seen
    before = [p.clone() for p in model.parameters()]
    scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    scaler.scale(model(x).square().mean()).backward()
    model[0].weight.grad.fill_(math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_a_weight_frozen_in_mid_training_stays_as_it_is(net):
    model = net()
    wrapper = wrap(model)
    wrapper.update_params(model.loss(0))
    model[0].weight.requires_grad_(False)
    frozen, starts = model[0].weight.clone(), norms(flagged(wrapper.optimizer))
    for i in range(5):
        wrapper.update_params(model.loss(i))
    assert torch.equal(model[0].weight, frozen)
    assert norms(flagged(wrapper.optimizer)) == pytest.approx(starts, rel=1e-9)


NAMED = dict(PER_LAYER, targets={'conv|backbone': 2, r'fc\.weight': 0.5})


@pytest.mark.parametrize('wrapper', [PER_LAYER, dict(PER_LAYER, targets='equal'), NAMED], ids=SHARES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut_and_resumed, wrapper):
    one, two = cut_and_resumed(wrapper=wrapper)
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    assert one['optimizer']['fix_norm'] == two['optimizer']['fix_norm']
    assert len(one['optimizer']['fix_norm']['norms']) == 3


@pytest.mark.parametrize(
    'first, second, message',
    [
        (JOINT, PER_LAYER, 'kept the norm per set, this one keeps it per tensor'),
        (PER_LAYER, JOINT, 'kept the norm per tensor, this one keeps it per set'),
        (dict(type='OptimWrapper'), PER_LAYER, "no state 'fix_norm'"),
        (PER_LAYER, dict(PER_LAYER, targets='equal'), "kept the norm per tensor, .* tensor with targets='equal'"),
        (dict(PER_LAYER, targets='equal'), PER_LAYER, "kept .* with targets='equal', this one keeps it per tensor"),
        (
            NAMED,
            dict(PER_LAYER, targets={'fc': 2}),
            r"with targets={'conv\|backbone': 2.0, .*}, this one .* with targets={'fc': 2.0}",
        ),
    ],
)
def test_resume_from_another_kind_of_run_is_refused(toy_runner, first, second, message):
    before = toy_runner('first', epochs=1, wrapper=first)
    before.train()
    after = toy_runner('second', wrapper=second, load_from=f'{before.work_dir}/epoch_1.pth', resume=True)
    with pytest.raises(ValueError, match=message):
        after.train()


def test_one_target_for_all_is_refused(net):
    with pytest.raises(ValueError, match=r'keeps the norm of each layer, as targets says; it takes neither target'):
        wrap(net(), target=5.0)


def test_a_weight_without_a_direction_is_refused(net):
    model = net()
    torch.nn.init.zeros_(model[3].weight)
    with pytest.raises(ValueError, match='must be finite and > 0 before the first step, got 0'):
        wrap(model).update_params(model.loss(0))


def test_the_order_of_the_patterns_is_no_difference(net):
    one, two = (TensorNormFixer(targets=targets) for targets in ({'a': 1, 'b': 2.0}, {'b': 2, 'a': 1.0}))
    assert one.per == two.per != TensorNormFixer(targets={'a': 2, 'b': 1}).per


@pytest.mark.parametrize(
    'targets, message',
    [
        ('same', "targets must be 'init', 'equal' or a dict .*, got 'same'"),
        ({}, 'or a dict .*, got {}'),
        ({'0': 0.0}, r"targets\['0'\] must be a finite factor > 0, got 0.0"),
        ({'0': math.inf}, 'must be a finite factor > 0, got inf'),
        ({'0': True}, 'must be a finite factor > 0, got True'),
        ({'(': 1.0}, r"targets\['\('\] is not a regular expression"),
        ({'conv1': 2.0}, r"the pattern 'conv1' matches none of the 3 weights .* \(0.weight, 3.weight, 7.weight, ...\)"),
        ({'bias': 2.0}, 'matches none'),
        ({'0': 2.0, 'weight': 3.0}, "'0' and 'weight' both match 0.weight"),
    ],
)
def test_targets_that_cannot_be_are_refused_before_training(net, targets, message):
    with pytest.raises(ValueError, match=f'^optim_wrapper.*{message}'):
        wrap(net(), targets=targets)


def test_it_is_said_how_many_weights_a_pattern_sets(net, capsys):
    wrap(net(), targets={'0|3': 2.0})
    assert "targets['0|3'] sets the norm of 2 weights" in capsys.readouterr().out


def test_names_are_required_where_targets_go_by_name(net):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flag_set(optimizer, model.convs())
    TensorNormFixer(targets={'0': 2.0}).install(optimizer)
    model.loss(0).backward()
    with pytest.raises(ValueError, match='take_names was not called'):
        optimizer.step()


def test_a_copy_of_a_wrapper_knows_the_names(net):
    model = net()
    copied_model, copy = copy_.deepcopy((model, wrap(model, targets={'0': 2.0})))
    starts = norms(model.convs())
    copy.update_params(copied_model.loss(0))
    after = norms(copied_model.convs())
    assert after[0] / after[1] == pytest.approx(2 * starts[0] / starts[1], rel=1e-9)


def test_a_weight_without_gradient_leaves_the_set_and_the_others_keep_their_names(net):
    model = net()
    wrapper = wrap(model, targets={'^3': 2.0})
    starts = norms(model.convs())
    model.loss(0).backward()
    model[0].weight.grad = None  # as if it were unused
    wrapper.step()
    (conv, fc), first = norms(flagged(wrapper.optimizer)), norms([model[0].weight])
    assert first == starts[:1]
    assert conv / fc == pytest.approx(2 * starts[1] / norms([net()[7].weight])[0], rel=1e-9)
