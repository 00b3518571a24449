"""Norm fixing under each way of training in one process, against the plain loop of reference.py."""

import functools
import io
import math

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmfixnorm.core import FixNormLinear, fix_norm
from tests.regimes import reference
from tests.regimes.toy import ALPHA, SGD, batches, data_of, net, start_of, wrap

TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])


def run(model, wrapper, data):
    for batch in data:
        model.train_step(data_of(batch), wrapper)
    return start_of(model)


OPTIMIZERS = {
    'sgd': (SGD, reference.sgd),
    'sgd_foreach': (SGD | dict(foreach=True), reference.sgd),
    'sgd_fused': (SGD | dict(fused=True), reference.sgd),
    'adamw': (dict(type='AdamW', lr=0.05, weight_decay=0), reference.adamw),
    'rmsprop': (dict(type='RMSprop', lr=0.05), reference.rmsprop),
    'lamb': (dict(type='mmpretrain.Lamb', lr=0.05, weight_decay=0), reference.lamb),
}


@pytest.mark.parametrize('row', OPTIMIZERS)
def test_each_optimizer_follows_the_reference(row, record):
    if row == 'lamb':
        pytest.importorskip('mmpretrain.engine.optimizers')
    if row == 'sgd_fused' and TORCH < (2, 4):
        pytest.skip('torch has a fused SGD for the CPU from 2.4 on')
    config, expected = OPTIMIZERS[row]
    model = net()
    start, data = start_of(model), batches()
    actual = run(model, wrap(model, config), data)
    bound = 1e-7 if row == 'lamb' else 1e-9  # Lamb sums the norm of all gradients in float32
    record(row, actual, reference.train(start, data, expected()), bound)


def test_the_reference_without_the_rescale_is_another_one():
    start, data = start_of(net()), batches()
    fixed = reference.train(start, data, reference.sgd())
    free = reference.train(start, data, reference.sgd(), fixed=())
    assert (fixed['head.weight'] - free['head.weight']).abs().max() > 1e-2


def test_a_plain_loop_with_fix_norm_follows_the_reference(record):
    model = net()
    start, data = start_of(model), batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    fix_norm(optimizer, model=model)
    for batch in data:
        optimizer.zero_grad()
        model(**data_of(batch), mode='loss')['loss'].backward()
        optimizer.step()
    record('fix_norm', start_of(model), reference.train(start, data, reference.sgd()))


def test_accumulation_is_the_mean_over_chunks_and_nothing_in_between(record):
    model = net()
    start, data = start_of(model), batches(size=12)
    wrapper = wrap(model, accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 3 * len(data))
    for x, y in data:
        for i, chunk in enumerate(zip(x.chunk(3), y.chunk(3))):
            before = start_of(model)
            model.train_step(data_of(chunk), wrapper)
            moved = any(not torch.equal(before[n], p) for n, p in model.named_parameters())
            assert moved == (i == 2)
    record('accumulation', start_of(model), reference.train(start, data, reference.sgd(), chunks=3))


def test_clipping_comes_before_the_step(record):
    model = net()
    start, data = start_of(model), batches()
    actual = run(model, wrap(model, clip_grad=dict(max_norm=0.05)), data)
    # torch divides by the norm + 1e-6
    record('clipping', actual, reference.train(start, data, reference.sgd(), clip=0.05), bound=1e-5)


@pytest.mark.skipif(TORCH < (2, 4), reason='torch has a loss scaler, and a fused SGD, for the CPU from 2.4 on')
@pytest.mark.parametrize('row, skipped', [('amp', (0, 3)), ('amp_fused', (1, 3))])
def test_steps_that_the_loss_scaler_skips_are_as_if_they_had_not_been(row, skipped, record, monkeypatch):
    """Skipped first steps as well, but fused: torch's fused SGD then starts from momentum that nobody has written."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = functools.partial(torch.amp.GradScaler, device='cpu', init_scale=8.0)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    model = net()
    start, data = start_of(model), batches()
    wrapper = wrap(model, SGD | dict(fused=row == 'amp_fused'), 'FixNormAmpOptimWrapper')
    for number, batch in enumerate(data):
        factor = math.inf if number in skipped else 1.0
        wrapper.update_params(model(**data_of(batch), mode='loss')['loss'] * factor)
    assert wrapper.loss_scaler.get_scale() == 2.0  # halved twice
    record(row, start_of(model), reference.train(start, data, reference.sgd(), skipped=skipped))


def test_checkpointed_activations_change_nothing(record):
    model = net()
    start, data = start_of(model), batches()
    calls, plain = [], model.backbone.forward

    def recomputed(x):
        calls.append(torch.is_grad_enabled())
        return plain(x)

    model.backbone.forward = lambda x: checkpoint(recomputed, x, use_reentrant=False)
    actual = run(model, wrap(model), data)
    assert len(calls) == 2 * len(data)
    record('checkpointing', actual, reference.train(start, data, reference.sgd()))


def test_a_layer_frozen_in_mid_training_stays_and_the_others_keep_the_norm_of_the_set(record):
    model = net()
    start, data = start_of(model), batches()
    wrapper = wrap(model)
    for number, batch in enumerate(data):
        if number == 3:
            model.backbone[0].weight.requires_grad_(False)
        model.train_step(data_of(batch), wrapper)
    norms = []
    expected = reference.train(start, data, reference.sgd(), frozen_from={'backbone.0.weight': 3}, norms=norms)
    assert norms == pytest.approx([norms[0]] * 6, rel=1e-12)
    record('frozen', start_of(model), expected)


FIRST, SECOND = 'backbone.0.weight', 'backbone.3.weight'


@pytest.mark.parametrize('at_build', [True, False])
def test_a_thawed_layer_brings_its_norm(record, at_build):
    model = net()
    start, data, norms = start_of(model), batches(), []
    first = model.backbone[0].weight.requires_grad_(not at_build)
    wrapper = wrap(model)
    for number, batch in enumerate(data):
        first.requires_grad_(number >= 3)
        model.train_step(data_of(batch), wrapper)
    expected = reference.train(start, data, reference.sgd(), frozen_until={FIRST: 3}, norms=norms)
    assert norms == pytest.approx([norms[0]] * 6, rel=1e-12)
    assert wrapper.norm_fixer.target == pytest.approx(norms[0], rel=1e-12)
    record('thawed', start_of(model), expected)


def test_a_layer_held_for_two_steps_moves_again(record):
    model = net()
    start, data, wrapper = start_of(model), batches(), wrap(model)
    for number, batch in enumerate(data):
        model.backbone[0].weight.requires_grad_(number not in (2, 3))
        model.train_step(data_of(batch), wrapper)
    record('frozen_and_thawed', start_of(model), reference.train(start, data, reference.sgd(), held={FIRST: (2, 3)}))


@pytest.mark.parametrize('stop', [1, 2, 4, 5])
def test_a_run_with_a_thawed_layer_resumes_to_the_bit(record, stop):
    def run_from(first, last, model, wrapper):
        for number in range(first, last):
            model.backbone[0].weight.requires_grad_(number >= 3)
            model.train_step(data_of(data[number]), wrapper)

    def built():
        model = net()
        model.backbone[0].weight.requires_grad_(False)
        return model, wrap(model)

    data, (model, wrapper) = batches(), built()
    start = start_of(model)
    run_from(0, stop, model, wrapper)
    saved = io.BytesIO()
    torch.save((model.state_dict(), wrapper.state_dict()), saved)
    run_from(stop, 6, model, wrapper)
    again, again_wrapper = built()
    saved.seek(0)
    weights, state = torch.load(saved, weights_only=False)
    again.load_state_dict(weights)
    again_wrapper.load_state_dict(state)
    run_from(stop, 6, again, again_wrapper)
    assert again_wrapper.norm_fixer.target == wrapper.norm_fixer.target
    for name, p in model.named_parameters():
        assert torch.equal(p, again.get_parameter(name)), name
    record('thawed_resumed', start_of(again), reference.train(start, data, reference.sgd(), frozen_until={FIRST: 3}))


def test_a_branch_taken_late_brings_its_norm(record):
    model = net()
    start, data, wrapper = start_of(model), batches(), wrap(model)
    conv = model.backbone[3]
    for number, batch in enumerate(data):
        conv.forward = lambda x, n=number: F.conv2d(x, conv.weight if n >= 3 else conv.weight.detach())
        model.train_step(data_of(batch), wrapper)
    record('late', start_of(model), reference.train(start, data, reference.sgd(), frozen_until={SECOND: 3}))


def test_a_layer_with_learning_rate_0_stays_to_the_bit(record):
    model = net()
    start, data = start_of(model), batches()
    run(model, wrap(model, paramwise_cfg=dict(custom_keys={'backbone.0': dict(lr_mult=0)})), data)
    assert torch.equal(model.backbone[0].weight, start[FIRST])
    record('lr_mult_zero', start_of(model), reference.train(start, data, reference.sgd(), frozen_until={FIRST: 99}))


def test_a_closure_makes_its_gradients_during_the_step(record):
    model = net()
    start, data = start_of(model), batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    fix_norm(optimizer, model=model)
    for batch in data:

        def closure():
            optimizer.zero_grad()
            loss = model(**data_of(batch), mode='loss')['loss']  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.zero_grad()
    record('closure', start_of(model), reference.train(start, data, reference.sgd()))


def test_a_shared_layer_counts_once(record, monkeypatch):
    """A second convolution of the same weight behind the first: the reference sees one tensor in two places."""

    def convolved_again(conv2d):
        def conv(x, w, *args, **kwargs):
            y = conv2d(x, w, *args, **kwargs)
            return conv2d(y, w, padding=1) if w.shape[0] == w.shape[1] else y

        return conv

    model = net()
    model.backbone[3] = nn.Conv2d(4, 4, 3, bias=False, dtype=torch.float64)
    twin = nn.Conv2d(4, 4, 3, padding=1, bias=False, dtype=torch.float64)
    twin.weight = model.backbone[3].weight
    model.backbone[4] = nn.Sequential(twin, nn.BatchNorm2d(4, dtype=torch.float64))
    plain = nn.Linear(4, 3, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(model.head.weight[:, :4])
        plain.bias.copy_(model.head.bias)
    model.head = FixNormLinear.from_plain(plain, alpha=ALPHA)
    names = {'backbone.4.1.weight': 'backbone.4.weight', 'backbone.4.1.bias': 'backbone.4.bias'}
    weights = lambda: {names.get(n, n): p for n, p in start_of(model).items()}  # noqa: E731
    start, data = weights(), batches()
    run(model, wrap(model), data)
    monkeypatch.setattr(reference.F, 'conv2d', convolved_again(reference.F.conv2d))
    record('shared', weights(), reference.train(start, data, reference.sgd()))


@pytest.mark.slow
@pytest.mark.parametrize('row', ['compile', 'compile_step'])
def test_compiled_training_follows_the_reference(row, record):
    torch._dynamo.reset()  # what other tests of this process have compiled
    model = net()
    start, data = start_of(model), batches()
    wrapper = wrap(model)
    step = model.train_step
    if row == 'compile':
        compiled = torch.compile(model.forward)
        model.forward = compiled
    else:
        wrapper.initialize_count_status(model, 0, len(data))
        step = torch.compile(model.train_step)
    for batch in data:
        step(data_of(batch), wrapper)
    record(row, start_of(model), reference.train(start, data, reference.sgd()))
