"""Each situation of norm fixing in mmengine: accumulation, AMP, clipping, schedulers, compile, resume."""

import copy
import functools
import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmfixnorm.core import FixNormLinear, fix_norm
from mmfixnorm.core.membership import FLAG, flagged
from mmfixnorm.core.norm_fixing import norm_fixing_parameters

CONSTRUCTOR = 'FixNormOptimWrapperConstructor'
SGD = dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)


def wrap(model, type='FixNormOptimWrapper', optimizer=SGD, **kwargs):
    return build_optim_wrapper(model, dict(type=type, constructor=CONSTRUCTOR, optimizer=optimizer, **kwargs))


def batch_of(data, start, size):
    items = [data[i % len(data)] for i in range(start, start + size)]
    return dict(inputs=[i['inputs'] for i in items], data_samples=[i['data_samples'] for i in items])


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def norm(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors]).norm().item()


def test_accumulation_leaves_weights_alone_and_equals_the_large_batch(toy_classifier, toy_data):
    data = toy_data()
    small, large = toy_classifier(norm=False), toy_classifier(norm=False)
    small_wrapper, large_wrapper = wrap(small, accumulative_counts=3), wrap(large)
    small_wrapper.initialize_count_status(small, 0, 12)
    start = norm(norm_fixing_parameters(small).values())
    for i in range(12):
        before = weights(small)
        small.train_step(batch_of(data, 4 * i, 4), small_wrapper)
        changed = any(not torch.equal(p, q) for p, q in zip(small.parameters(), before))
        assert changed == (i % 3 == 2)
        assert norm(norm_fixing_parameters(small).values()) == pytest.approx(start, rel=1e-6)
    for i in range(4):
        large.train_step(batch_of(data, 12 * i, 12), large_wrapper)
    for p, q in zip(small.parameters(), large.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """AmpOptimWrapper asserts an accelerator; the scaler itself runs on the CPU as well."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip(f'torch {torch.__version__} has no loss scaler for the CPU')
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, device='cpu', init_scale=8.0)
    )


@pytest.mark.parametrize('fused', [False, True], ids=['plain', 'fused'])
def test_step_skipped_by_the_loss_scaler_changes_no_bit(toy_classifier, toy_data, amp_on_cpu, fused):
    model = toy_classifier()
    wrapper = wrap(model, 'FixNormAmpOptimWrapper', SGD | dict(fused=fused))
    data = toy_data()

    def update(infinite):
        loss = model(**batch_of(data, 0, 8), mode='loss')['loss']
        wrapper.update_params(loss * math.inf if infinite else loss)

    update(infinite=False)
    start, before = wrapper.norm_fixer.target, weights(model)
    for _ in range(3):
        update(infinite=True)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert wrapper.loss_scaler.get_scale() == 1.0  # halved three times: the steps were skipped
    update(infinite=False)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert norm(flagged(wrapper.optimizer)) == pytest.approx(start, rel=1e-6)


def test_first_step_skipped_by_the_scaler_still_gives_the_right_target(toy_classifier, toy_data, amp_on_cpu):
    model = toy_classifier()
    wrapper = wrap(model, 'FixNormAmpOptimWrapper')
    start = norm(norm_fixing_parameters(model).values())
    for factor in (math.inf, 1.0):
        wrapper.update_params(model(**batch_of(toy_data(), 0, 8), mode='loss')['loss'] * factor)
    assert wrapper.norm_fixer.target == pytest.approx(start, rel=1e-6)


def test_clipping_comes_before_the_step_and_the_fixing_after(toy_classifier, toy_data):
    model, twin = toy_classifier(), toy_classifier()
    wrapper = wrap(model, clip_grad=dict(max_norm=0.01))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    fix_norm(optimizer, model=twin)
    for i in range(3):
        batch = batch_of(toy_data(), 8 * i, 8)
        model.train_step(batch, wrapper)
        optimizer.zero_grad()
        twin(**batch, mode='loss')['loss'].backward()
        assert nn.utils.clip_grad_norm_(twin.parameters(), 0.01) > 0.01
        optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(p, q)


def test_param_schedulers_replace_step_on_the_instance_and_fixing_goes_on(toy_runner):
    runner = toy_runner(param_scheduler=[dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)])
    model = runner.train()
    assert 'step' in vars(runner.optim_wrapper)  # mmengine's counter, not our method
    lr = runner.optim_wrapper.get_lr()['lr']
    assert lr[0] == pytest.approx(0.05 * (1 + math.cos(5 / 6 * math.pi)))
    assert norm(norm_fixing_parameters(model).values()) == pytest.approx(
        runner.optim_wrapper.norm_fixer.target, rel=1e-6
    )


def test_compiled_train_step_follows_the_eager_one(toy_classifier, toy_data):
    eager, compiled = toy_classifier(), toy_classifier()
    eager_wrapper, compiled_wrapper = wrap(eager), wrap(compiled)
    step = torch.compile(compiled.train_step, backend='eager')
    for i in range(4):
        batch = batch_of(toy_data(), 8 * i, 8)
        eager.train_step(batch, eager_wrapper)
        step(batch, compiled_wrapper)
    for p, q in zip(eager.parameters(), compiled.parameters()):
        torch.testing.assert_close(p, q)
    assert norm(flagged(compiled_wrapper.optimizer)) == pytest.approx(eager_wrapper.norm_fixer.target, rel=1e-6)


def test_replaced_or_copied_optimizer_is_fixed_as_well(toy_classifier, toy_data):
    model = toy_classifier()
    wrapper = wrap(model)
    model.train_step(batch_of(toy_data(), 0, 8), wrapper)
    model, wrapper = copy.deepcopy((model, wrapper))  # drops the step hooks
    model.train_step(batch_of(toy_data(), 8, 8), wrapper)
    assert norm(flagged(wrapper.optimizer)) == pytest.approx(wrapper.norm_fixer.target, rel=1e-6)
    wrapper.optimizer = torch.optim.SGD(wrapper.optimizer.param_groups, lr=0.1)
    model.train_step(batch_of(toy_data(), 0, 8), wrapper)
    assert norm(flagged(wrapper.optimizer)) == pytest.approx(wrapper.norm_fixer.target, rel=1e-6)


def test_target_follows_init_and_load_from(toy_runner, toy_classifier, tmp_path):
    start = toy_classifier(seed=7)
    with torch.no_grad():
        for p in norm_fixing_parameters(start).values():
            p.mul_(3)
    torch.save(dict(state_dict=start.state_dict(), meta={}), tmp_path / 'start.pth')
    runner = toy_runner(load_from=str(tmp_path / 'start.pth'))
    runner.train()
    expected = norm(norm_fixing_parameters(start).values())
    assert runner.optim_wrapper.norm_fixer.target == pytest.approx(expected, rel=1e-6)


def test_scales_written_around_the_layers_are_filled_before_training(toy_runner, toy_classifier):
    model = toy_classifier(fc=FixNormLinear(6, 3, alpha=100.0))
    model.init_weights = lambda: nn.init.normal_(model.head.fc.weight, std=5.0)  # as ConvModule does
    runner = toy_runner(model=model, lr=1e-9, epochs=1)
    runner.train()
    torch.testing.assert_close(model.head.fc.g.item(), model.head.fc.weight.norm().item(), rtol=1e-4, atol=0)


def checkpoint(runner, epoch):
    return torch.load(f'{runner.work_dir}/epoch_{epoch}.pth', weights_only=False)


@pytest.mark.parametrize(
    'wrapper',
    [dict(type='FixNormOptimWrapper', constructor=CONSTRUCTOR), dict(type='OptimWrapper')],
    ids=['wrapper', 'hook'],
)
def test_one_epoch_and_one_resumed_equal_two_straight_bit_for_bit(toy_runner, wrapper):
    hooks = [] if 'constructor' in wrapper else [dict(type='FixNormHook')]
    scheduler = [dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)]
    make = functools.partial(toy_runner, wrapper=wrapper, custom_hooks=hooks, param_scheduler=scheduler)
    straight = make('straight')
    straight.train()
    half = make('half', epochs=2)
    half.train_loop._max_epochs = 1  # as if it were killed after an epoch, under the same schedule
    half.train()
    again = make('again', load_from=f'{half.work_dir}/epoch_1.pth', resume=True)
    again.train()
    one, two = checkpoint(straight, 2), checkpoint(again, 2)
    assert one['state_dict'].keys() == two['state_dict'].keys()
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    targets = [c.get('fix_norm') or c['optimizer']['fix_norm'] for c in (one, two)]
    assert targets[0] == targets[1]
    assert targets[0]['target'] > 0


def test_resume_keeps_the_target_though_the_checkpoint_holds_other_weights(toy_runner):
    first = toy_runner('first', epochs=1)
    first.train()
    state = checkpoint(first, 1)
    for name in ('backbone.0.weight', 'backbone.3.weight'):
        state['state_dict'][name] *= 0.5  # as an average of weights would be
    torch.save(state, f'{first.work_dir}/epoch_1.pth')
    second = toy_runner('second', load_from=f'{first.work_dir}/epoch_1.pth', resume=True)
    model = second.train()
    assert second.optim_wrapper.norm_fixer.target == first.optim_wrapper.norm_fixer.target
    assert norm(norm_fixing_parameters(model).values()) == pytest.approx(
        first.optim_wrapper.norm_fixer.target, rel=1e-6
    )


def test_flags_that_a_checkpoint_lacks_are_stamped_again(toy_classifier, toy_data):
    model = toy_classifier()
    wrapper = wrap(model)
    model.train_step(batch_of(toy_data(), 0, 8), wrapper)
    state = wrapper.state_dict()
    for group in state['param_groups']:
        group.pop(FLAG, None)
    fresh = wrap(model)
    given = dict(state)
    fresh.load_state_dict(state)
    assert len(flagged(fresh.optimizer)) == 3
    assert state.keys() == given.keys()  # the caller's dict is not touched


def test_resume_from_a_run_without_norm_fixing_is_refused(toy_classifier):
    model = toy_classifier()
    state = wrap(model).state_dict()
    del state['fix_norm']
    with pytest.raises(ValueError, match="no state 'fix_norm'.* Use load_from instead of resume"):
        wrap(model).load_state_dict(state)


def test_resume_with_another_set_is_refused(toy_classifier, toy_data):
    model = toy_classifier()
    wrapper = wrap(model)
    model.train_step(batch_of(toy_data(), 0, 8), wrapper)
    state = wrapper.state_dict()
    state['fix_norm'] = dict(target=1.0, size=(3, 100))
    with pytest.raises(ValueError, match='3 tensors with 100 elements, this run has 3 with 270'):
        wrap(model).load_state_dict(state)


def test_wrapper_without_its_constructor_is_refused_with_the_config_key(toy_classifier):
    with pytest.raises(ValueError, match="needs optim_wrapper.constructor='FixNormOptimWrapperConstructor'"):
        build_optim_wrapper(toy_classifier(), dict(type='FixNormOptimWrapper', optimizer=SGD))


def test_checkpoint_of_a_broken_norm_is_reported(toy_classifier, toy_data, capsys):
    model = toy_classifier()
    wrapper = wrap(model)
    model.train_step(batch_of(toy_data(), 0, 8), wrapper)
    with torch.no_grad():
        model.backbone[0].weight.fill_(math.nan)
    wrapper.state_dict()
    assert 'norm of the weights to fix is nan' in capsys.readouterr().out
