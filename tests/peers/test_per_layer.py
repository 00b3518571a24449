"""Norm fixing layer by layer, and that it is told apart from norm fixing of the whole set."""

import inspect
import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmfixnorm.core.norm_fixing import flag_, flagged
from mmfixnorm.peers import TensorNormAnchor

SGD = dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True)
PER_LAYER = dict(type='PerLayerFixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
JOINT = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')


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
    flag_(optimizer, model.convs())
    anchor = TensorNormAnchor()
    anchor.install(optimizer)
    x = torch.randn(8, 1, 8, 8)
    model(x).square().mean().backward()
    optimizer.step()
    anchor.norms = [2 * norm for norm in anchor.norms]  # so that fixing, were it done, would be seen
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


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut_and_resumed):
    one, two = cut_and_resumed(wrapper=PER_LAYER)
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
    ],
)
def test_resume_from_another_kind_of_run_is_refused(toy_runner, first, second, message):
    before = toy_runner('first', epochs=1, wrapper=first)
    before.train()
    after = toy_runner('second', wrapper=second, load_from=f'{before.work_dir}/epoch_1.pth', resume=True)
    with pytest.raises(ValueError, match=message):
        after.train()


def test_one_target_for_all_is_refused(net):
    with pytest.raises(ValueError, match=r'target must be None .*, got 5.0'):
        wrap(net(), target=5.0)


def test_a_weight_without_a_direction_is_refused(net):
    model = net()
    torch.nn.init.zeros_(model[3].weight)
    with pytest.raises(ValueError, match='must be finite and > 0 before the first step, got 0'):
        wrap(model).update_params(model.loss(0))
