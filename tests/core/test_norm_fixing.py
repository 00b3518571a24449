import copy
import inspect
import logging
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmfixnorm.core import FixNormLinear, NormFixer, fix_norm, norm_fixing, norm_fixing_parameters
from mmfixnorm.core.membership import FLAG, flag_set, flagged
from mmfixnorm.core.norms import global_norm, scale_, tensor_norm
from mmfixnorm.core.rotation import UNITS


def small_net(alpha=1.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        FixNormLinear(6, 3, alpha=alpha),
    )


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.randint(3, (8,), generator=generator)


def loss_of(model, data):
    return F.cross_entropy(model(data[0]), data[1])


def step(model, optimizer, seed=0):
    optimizer.zero_grad()
    loss_of(model, batch(seed)).backward()
    optimizer.step()


def sgd(model, lr=0.1, **kwargs):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, **kwargs)


def float64_norm(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors]).norm().item()


OPTIMIZERS = {
    'sgd': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    'sgd_loop': lambda p: torch.optim.SGD(p, lr=0.1, foreach=False),
    'sgd_fused': lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    'adamw': lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
    'rmsprop': lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.slow
def test_norm_stays_within_1e_5_over_2000_steps():
    norm_stays(OPTIMIZERS['sgd'], 2000)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_norm_stays_with_any_optimizer(name):
    skip_without_fused(name)
    norm_stays(OPTIMIZERS[name], 50)


def norm_stays(make, steps):
    model = small_net()
    optimizer = make(model.parameters())
    fix_norm(optimizer, model=model)
    start = float64_norm(flagged(optimizer))
    for i in range(steps):
        step(model, optimizer, seed=i % 7)
        assert abs(float64_norm(flagged(optimizer)) / start - 1) < 1e-5


def skip_without_fused(name):
    if name.endswith('fused') and 'fused' not in inspect.signature(torch.optim.SGD).parameters:
        pytest.skip(f'torch {torch.__version__} has no fused SGD')


def test_without_fixing_the_norm_moves():
    model = small_net()
    optimizer = sgd(model)
    start = float64_norm(norm_fixing_parameters(model).values())
    for i in range(20):
        step(model, optimizer, seed=i)
    assert abs(float64_norm(norm_fixing_parameters(model).values()) / start - 1) > 1e-2


def test_one_step_matches_a_float64_reference():
    model = small_net()
    reference = copy.deepcopy(model).double()
    weights = [m.weight for m in reference if isinstance(m, (nn.Conv2d, nn.Linear))]
    start = float64_norm(weights)
    optimizer = sgd(model, lr=0.5)
    fix_norm(optimizer, model=model)
    velocity = {p: torch.zeros_like(p) for p in reference.parameters()}
    for i in range(5):
        step(model, optimizer, seed=i)
        x, y = batch(i)
        grads = torch.autograd.grad(loss_of(reference, (x.double(), y)), list(velocity))
        with torch.no_grad():
            for (p, v), grad in zip(velocity.items(), grads):
                v.copy_(0.9 * v + grad)
                p -= 0.5 * (grad + 0.9 * v)
            factor = start / float64_norm(weights)
            for w in weights:
                w *= factor
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p.double(), q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 1e-6)])
@pytest.mark.parametrize(
    'shapes',
    [[(5,)], [(3, 4), (2, 2, 2), (1,)], [(200, 300), (0,), (7,)], [(1024,), (4096,), (1025,)]],
    ids=str,
)
def test_global_norm_matches_one_float64_vector(shapes, dtype, tol):
    torch.manual_seed(0)
    tensors = [torch.randn(s).to(dtype) for s in shapes]
    assert global_norm(tensors).item() == pytest.approx(float64_norm(tensors), rel=tol)


def test_norm_of_a_large_tensor_is_as_exact_as_of_a_small_one():
    # In one float32 sum the relative error is 4e-4 here.
    large = torch.full((2_000_000,), 0.1)
    assert global_norm([large]).item() == pytest.approx(0.1 * math.sqrt(2e6), rel=1e-6)


def test_norm_of_a_tensor_in_channels_last_or_strided_order_is_the_same():
    torch.manual_seed(0)
    tensor = torch.randn(64, 32, 3, 3)
    expected = pytest.approx(float64_norm([tensor]), rel=1e-6)
    assert global_norm([tensor.to(memory_format=torch.channels_last)]).item() == expected
    assert global_norm([tensor.transpose(0, 2)]).item() == expected


def test_scale_works_on_mixed_dtypes_in_place():
    tensors = [torch.ones(2), torch.ones(3, dtype=torch.float64), torch.ones(1, dtype=torch.bfloat16)]
    scale_(tensors, torch.tensor(0.5, dtype=torch.float64))
    assert [t.unique().item() for t in tensors] == [0.5] * 3


class LargestAllocations(TorchDispatchMode):
    """Counts the results that have as many elements as a tensor, but not views of it."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_new = isinstance(result, torch.Tensor) and not func.is_view and not func._schema.is_mutable
        self.count += is_new and result.numel() == self.numel
        return result


@pytest.mark.parametrize('shape', [(7, 11), (8, 1024), (3, 1000), (64, 3, 7, 7), (16, 64, 3, 3)])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_norm_is_its_direction_and_is_not_filled_up_with_zeros(shape, memory_format):
    torch.manual_seed(0)
    tensor = torch.randn(shape).double()
    if tensor.ndim == 4:
        tensor = tensor.to(memory_format=memory_format)
    single = tensor.float().requires_grad_()
    norm = tensor_norm(single)
    with LargestAllocations(tensor.numel()) as made:
        norm.backward()
    torch.testing.assert_close(norm.double(), tensor.norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(single.grad.double(), tensor / tensor.norm(), rtol=1e-5, atol=1e-8)
    assert made.count <= 3  # the quotient, its product with the gradient of the norm, rows and rest put together


def test_norm_of_nothing_is_refused():
    with pytest.raises(ValueError, match='norm-fixing set is empty'):
        global_norm([])


@pytest.mark.parametrize('c', [7.0, 0.2])
def test_scaled_start_with_scaled_lr_follows_the_same_path(c):
    """From W with lr and from cW with lr * c^2 for the set: same function after each step (eq. 4).

    Momentum-free, and with momentum alike, since all steps of the set scale with c.
    """
    logits = []
    for factor in (1.0, c):
        model = without_eps(small_net()).double()
        in_set = list(norm_fixing_parameters(model).values())
        rest = [p for p in model.parameters() if all(p is not q for q in in_set)]
        with torch.no_grad():
            for p in in_set:
                p.mul_(factor)
        optimizer = torch.optim.SGD(
            [{'params': in_set, 'lr': 0.1 * factor**2}, {'params': rest}], lr=0.1, momentum=0.9, nesterov=True
        )
        fix_norm(optimizer, params=in_set)
        for i in range(50):
            step_in_double(model, optimizer, i)
        logits.append(model(batch(99)[0].double()).detach())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-6, atol=1e-6)


def without_eps(model):
    """BatchNorm's eps is what bends scale invariance: it does not scale along with the variance."""
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    return model


def step_in_double(model, optimizer, seed):
    x, y = batch(seed)
    optimizer.zero_grad()
    F.cross_entropy(model(x.double()), y).backward()
    optimizer.step()


def test_scaling_the_whole_set_by_7_changes_no_logit_in_training_mode():
    model = without_eps(small_net(alpha=10.0))
    before = model(batch()[0])
    scale_(list(norm_fixing_parameters(model).values()), torch.tensor(7.0))
    torch.testing.assert_close(model(batch()[0]), before, rtol=1e-4, atol=1e-5)


def test_set_is_conv_and_fc_weights_only():
    names = set(norm_fixing_parameters(small_net()))
    assert names == {'0.weight', '3.weight', '7.weight'}
    assert set(norm_fixing_parameters(small_net(), fc=False)) == {'0.weight', '3.weight'}
    assert set(norm_fixing_parameters(small_net(), exclude=['^0', r'7\.'])) == {'3.weight'}


def test_shared_and_frozen_weights_count_once_and_not_at_all():
    model = small_net()
    model.append(nn.Linear(6, 3))
    model[-1].weight = model[7].weight
    model[0].weight.requires_grad_(False)
    assert set(norm_fixing_parameters(model)) == {'3.weight', '7.weight'}
    assert set(norm_fixing_parameters(model, exclude=[r'^8\.'])) == {'3.weight'}


def test_target_is_taken_at_the_first_step_not_before():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    assert norm_fixer.target is None
    with torch.no_grad():
        model[0].weight.mul_(3)  # as a checkpoint loaded after the optimizer was built would
    start = float64_norm(flagged(optimizer))
    step(model, optimizer)
    assert norm_fixer.target == pytest.approx(start, rel=1e-6)


def test_a_norm_that_overflows_is_seen():
    model = small_net()
    optimizer = sgd(model)
    fix_norm(optimizer, model=model)
    step(model, optimizer)
    model[0].weight.grad *= 1e25
    optimizer.step()
    assert model[0].weight.isnan().any()


def test_given_target_is_kept():
    model = small_net()
    optimizer = sgd(model)
    fix_norm(optimizer, model=model, target=5.0)
    step(model, optimizer)
    assert float64_norm(flagged(optimizer)) == pytest.approx(5.0, rel=1e-6)


def test_unused_weight_leaves_the_set_and_is_not_touched():
    model = small_net()
    unused = nn.Linear(4, 4)
    optimizer = torch.optim.SGD([*model.parameters(), *unused.parameters()], lr=0.1)
    norm_fixer = fix_norm(optimizer, params=[*norm_fixing_parameters(model).values(), unused.weight])
    before, start = unused.weight.clone(), float64_norm(norm_fixing_parameters(model).values())
    step(model, optimizer)
    assert torch.equal(unused.weight, before)
    assert norm_fixer.target == pytest.approx(start, rel=1e-6)


def test_weight_frozen_in_mid_training_stays_and_the_whole_norm_too():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    step(model, optimizer)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    for i in range(5):
        step(model, optimizer, i)
    assert torch.equal(model[0].weight, before)
    assert float64_norm(flagged(optimizer)) == pytest.approx(norm_fixer.target, rel=1e-5)


def test_everything_else_is_left_to_the_optimizer():
    model, twin = small_net(), small_net()
    optimizer, plain = sgd(model), sgd(twin)
    fix_norm(optimizer, model=model)
    step(model, optimizer)
    step(twin, plain)
    in_set = set(norm_fixing_parameters(model))
    for (name, p), q in zip(model.named_parameters(), twin.parameters()):
        if name not in in_set:
            assert torch.equal(p, q), name
    for p, q in zip(model.parameters(), twin.parameters()):  # momentum buffers are left alone
        assert torch.equal(optimizer.state[p]['momentum_buffer'], plain.state[q]['momentum_buffer'])


def test_repeated_fixing_does_not_drift():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    step(model, optimizer)
    before = [p.clone() for p in flagged(optimizer)]
    for _ in range(2000):
        norm_fixer._hold(optimizer, (), {})
    for p, q in zip(flagged(optimizer), before):
        torch.testing.assert_close(p, q, rtol=3e-7, atol=0)


def test_fused_step_with_inf_gradients_changes_no_bit():
    skip_without_fused('sgd_fused')
    model = small_net()
    optimizer = OPTIMIZERS['sgd_fused'](model.parameters())
    norm_fixer = fix_norm(optimizer, model=model)
    step(model, optimizer)
    norm_fixer._target *= 2  # so that fixing, were it done, would be seen
    before = [p.clone() for p in model.parameters()]
    scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    scaler.scale(loss_of(model, batch())).backward()
    model[0].weight.grad.fill_(math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_copied_optimizer_is_served_after_installing_again():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    step(model, optimizer)
    for duplicate in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        twin_model, twin, twin_fixer = duplicate((model, optimizer, norm_fixer))
        assert flagged(twin)[0] is twin_model[0].weight
        twin_fixer.install(twin)
        step(twin_model, twin, seed=3)
        assert float64_norm(flagged(twin)) == pytest.approx(norm_fixer.target, rel=1e-6)


def test_norm_is_fixed_though_the_compiler_of_an_old_torch_takes_the_step_hooks_away(monkeypatch):
    class Momentum(torch.optim.SGD):
        pass

    monkeypatch.setattr(norm_fixing, '_TORCH_VERSION', (2, 1))
    model = small_net()
    optimizer = Momentum(model.parameters(), lr=0.1)
    norm_fixer = fix_norm(optimizer, model=model)
    Momentum.step = Momentum.step.__wrapped__  # what torch 2.1 does at the first torch.compile
    for i in range(3):
        step(model, optimizer, i)
    assert float64_norm(flagged(optimizer)) == pytest.approx(norm_fixer.target, rel=1e-6)


def test_installing_twice_hooks_once_and_remove_ends_it():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    norm_fixer.install(optimizer)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    norm_fixer.remove()
    assert len(optimizer._optimizer_step_post_hooks) == 0


UPDATES = ['step', 'angle']


def written_by(monkeypatch):
    written = []
    monkeypatch.setattr(logging.getLogger('mmfixnorm'), 'warning', written.append)
    return written


@pytest.mark.parametrize('update', UPDATES)
@pytest.mark.parametrize('steps_before', [0, 2])
def test_a_state_of_an_optimizer_without_norm_fixing_leaves_the_set(monkeypatch, update, steps_before):
    model, written = small_net(), written_by(monkeypatch)
    late = nn.Parameter(torch.ones(3, 3), requires_grad=False)
    optimizers = [torch.optim.SGD([*model.parameters(), late], lr=0.1, momentum=0.9) for _ in range(2)]
    optimizer, plain = optimizers
    norm_fixer = fix_norm(optimizer, params=[*norm_fixing_parameters(model).values(), late], update=update)
    for seed in range(steps_before):
        step(model, optimizer, seed)
    groups = copy.deepcopy([{key: v for key, v in g.items() if key != 'params'} for g in optimizer.param_groups])
    state = plain.state_dict()
    optimizer.load_state_dict(state)
    assert [{key: v for key, v in g.items() if key != 'params'} for g in optimizer.param_groups] == groups
    assert FLAG not in state['param_groups'][0]
    start = float64_norm(norm_fixing_parameters(model).values())
    for seed in range(3):
        step(model, optimizer, seed)
        assert float64_norm(norm_fixing_parameters(model).values()) == pytest.approx(start, rel=1e-6)
    own = optimizer.state_dict()
    norm_fixer.remove()
    optimizer.load_state_dict(own)
    assert [line for line in written if 'saved without it' in line] == [
        'Norm fixing: the loaded state of the optimizer was saved without it; the set stays as it is'
    ]
    optimizer.load_state_dict(state)
    assert FLAG not in optimizer.param_groups[0]  # after remove()


@pytest.mark.parametrize('update', UPDATES)
def test_groups_that_have_lost_the_set_are_refused(update):
    model = small_net()
    optimizer = sgd(model)
    fix_norm(optimizer, model=model, update=update)
    step(model, optimizer)
    optimizer.param_groups.clear()
    optimizer.add_param_group(dict(params=[*model.parameters()]))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match='have lost the norm-fixing set.*call fix_norm again'):
        step(model, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


@pytest.mark.parametrize('update', UPDATES)
def test_weights_of_a_group_that_comes_later_are_named_once(monkeypatch, update):
    model, written = small_net(), written_by(monkeypatch)
    optimizer = torch.optim.SGD([model[0].weight, *model[1].parameters()], lr=0.1)
    fix_norm(optimizer, params=[model[0].weight], update=update)
    step(model, optimizer)
    assert not written
    optimizer.add_param_group(dict(params=[*model[4].parameters(), model[3].weight]))
    for seed in range(3):
        step(model, optimizer, seed)
    (line,) = written
    assert 'not in the set, because their group was added' in line
    assert line.endswith('1 weight, number 2 of parameter group 1')


@pytest.mark.parametrize('first', UPDATES)
@pytest.mark.parametrize('second', UPDATES)
def test_a_second_call_replaces_the_first(monkeypatch, first, second):
    written = written_by(monkeypatch)
    models = small_net(), small_net()
    for model, calls in zip(models, ([first, second], [second])):
        optimizer = sgd(model)
        for update in calls:
            fix_norm(optimizer, model=model, update=update)
        for seed in range(3):
            step(model, optimizer, seed)
        assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
        assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1
    assert all(torch.equal(p, q) for p, q in zip(*(model.parameters() for model in models)))
    assert written == ['Norm fixing: the optimizer had it already; the new one replaces it']


def test_resumed_run_is_bit_identical_and_keeps_the_first_target():
    def run(steps, model, optimizer, norm_fixer, first=0):
        for i in range(first, first + steps):
            step(model, optimizer, i)
        return model, optimizer, norm_fixer

    def start():
        model = small_net()
        optimizer = sgd(model)
        return model, optimizer, fix_norm(optimizer, model=model)

    straight = run(6, *start())
    half = run(3, *start())
    saved = pickle.dumps([part.state_dict() for part in half])
    again = start()
    model_state, optimizer_state, fixer_state = pickle.loads(saved)
    again[0].load_state_dict(model_state)
    again[1].load_state_dict(optimizer_state)
    again[2].load_state_dict(fixer_state, again[1])
    run(3, *again, first=3)
    assert again[2].target == straight[2].target
    for p, q in zip(again[0].state_dict().values(), straight[0].state_dict().values()):
        assert torch.equal(p, q)


def test_target_of_another_set_is_refused():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    step(model, optimizer)
    other = sgd(model)
    flag_set(other, [model[0].weight])
    with pytest.raises(ValueError, match='checkpoint has 3 tensors with 270 elements, this run has 1 with 36'):
        NormFixer().load_state_dict(norm_fixer.state_dict(), other)


class _InWrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.module = model


def test_the_same_number_of_other_weights_is_refused_by_their_names():
    def started(of, wrap=lambda net: net):
        net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        flag_set(optimizer, [net[of].weight])
        norm_fixer = NormFixer()
        norm_fixer.report.take_names(wrap(net), optimizer)
        return norm_fixer, optimizer

    first, optimizer = started(0)
    state = first.state_dict() | {'target': 2.0, 'size': (1, 36)}
    assert state['names'] == ['0.weight']
    same, optimizer = started(0, _InWrapper)
    same.load_state_dict(state, optimizer)
    assert same.target == 2.0
    other, optimizer = started(1)
    with pytest.raises(ValueError, match='the checkpoint has 0.weight, this run has 1.weight'):
        other.load_state_dict(state, optimizer)
    del state['names']  # of an early version
    other.load_state_dict(state, optimizer)


def test_a_state_that_does_not_say_whose_norm_it_holds_is_that_of_the_set():
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model)
    step(model, optimizer)
    state = norm_fixer.state_dict()
    assert state.pop('per') == 'set'  # early versions did not write it
    fresh = NormFixer()
    fresh.load_state_dict(state, optimizer)
    assert fresh.target == norm_fixer.target
    with pytest.raises(ValueError, match='kept the norm per tensor, this one keeps it per set'):
        fresh.load_state_dict(state | {'per': 'tensor'}, optimizer)


def test_hooks_around_the_step_see_the_weights_before_and_after_it():
    model = small_net()
    optimizer = sgd(model)
    seen = []
    handles = norm_fixing.add_step_hooks(
        optimizer,
        before=lambda *_: seen.append(model[0].weight.clone()),
        after=lambda *_: seen.append(model[0].weight.clone()),
    )
    start = model[0].weight.clone()
    step(model, optimizer)
    assert torch.equal(seen[0], start)
    assert torch.equal(seen[1], model[0].weight)
    assert not torch.equal(*seen)
    for handle in handles:
        handle.remove()
    step(model, optimizer)
    assert len(seen) == 2


@pytest.mark.parametrize('update', UPDATES)
def test_step_compiles_and_keeps_the_norm(update):
    model = small_net()
    optimizer = sgd(model)
    norm_fixer = fix_norm(optimizer, model=model, update=update)
    step(model, optimizer)
    compiled = torch.compile(lambda seed: step(model, optimizer, seed), backend='eager')
    for i in range(3):
        compiled(i)
        assert float64_norm(flagged(optimizer)) == pytest.approx(norm_fixer.target, rel=1e-6)


@pytest.mark.parametrize('value', [0.0, math.nan, math.inf])
def test_start_without_a_usable_norm_is_refused(value):
    model = small_net()
    optimizer = sgd(model)
    fix_norm(optimizer, model=model)
    with torch.no_grad():
        for p in norm_fixing_parameters(model).values():
            p.fill_(value)
    with pytest.raises(ValueError, match='must be finite and > 0 before the first step, got'):
        optimizer.zero_grad()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()


def test_weight_decay_on_the_set_is_warned_of():
    model = small_net()
    with pytest.warns(UserWarning, match=r'weight_decay \[0.01\]'):
        fix_norm(sgd(model, weight_decay=0.01), model=model)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (lambda m: {}, 'either params=... or model=...'),
        (lambda m: {'params': [], 'model': m}, 'either params=... or model=...'),
        (lambda m: {'params': []}, 'norm-fixing set is empty'),
        (lambda m: {'model': nn.BatchNorm2d(3)}, 'norm-fixing set is empty'),
        (lambda m: {'params': [torch.ones(2)]}, '1 of the 1 tensors to fix are not in the optimizer'),
        (lambda m: {'model': m, 'exclude': ['nope']}, "pattern 'nope' matches none of the 3"),
        (lambda m: {'model': m, 'target': -1.0}, 'target must be finite and > 0 .*got -1.0'),
        (lambda m: {'model': m, 'target': math.nan}, 'got nan'),
        (lambda m: {'model': m, 'target': True}, 'target must be finite and > 0 .*got True'),
        (
            lambda m: {'params': [m[0].weight], 'exclude': ['nonsense']},
            'exclude is for model=.*; leave .* out of params',
        ),
        (lambda m: {'model': m, 'exclude': 'head'}, "must be a list of regular expressions, got 'head'"),
        (lambda m: {'model': nn.Sequential(nn.Linear(2, 3))}, '1 of the 1 tensors .* not in the optimizer: 0.weight;'),
        (lambda m: {'params': [torch.ones(2, 3)]}, r'not in the optimizer: one of shape \(2, 3\);'),
        (lambda m: {'params': m}, 'params must be tensors, got Sequential; write params=model.parameters'),
        (lambda m: {'params': m.named_parameters()}, 'params must be tensors, got tuple'),
        (lambda m: {'model': [m]}, 'model must be a torch.nn.Module, got list'),
        (
            lambda m: {'params': [torch.ones(2, dtype=torch.complex64)]},
            'needs real weights in memory, got torch.complex64',
        ),
        (lambda m: {'params': [torch.ones(2, device='meta')]}, 'on meta; .* after a model .* is materialised'),
    ],
)
def test_bad_input_says_what_was_found(kwargs, message):
    model = small_net()
    with pytest.raises((TypeError, ValueError), match=message):
        fix_norm(sgd(model), **kwargs(model))


@pytest.mark.parametrize(('wrong', 'kind'), [(lambda m: [sgd(m)], 'list'), (lambda m: m, 'Sequential')])
def test_what_is_no_optimizer_is_refused(wrong, kind):
    model = small_net()
    with pytest.raises(TypeError, match=f'optimizer must be an optimizer, got {kind}'):
        fix_norm(wrong(model), model=model)


def test_groups_say_which_positions_are_in_the_set():
    model = small_net()
    optimizer = sgd(model)
    fix_norm(optimizer, model=model)
    assert optimizer.param_groups[0][FLAG] == [0, 3, 6]
    assert optimizer.state_dict()['param_groups'][0][FLAG] == [0, 3, 6]


class NoHostSync(TorchDispatchMode):
    """Refuses what copies a value from the device to the host, or makes a tensor on the host to copy it back."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        refused = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default)
        assert func not in refused, 'a host synchronisation'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('options', [{}, *(dict(update='angle', per=per) for per in UNITS)], ids=str)
def test_step_has_no_host_synchronisation_after_the_first(options):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    fix_norm(optimizer, model=model, **options)
    step(model, optimizer)
    with NoHostSync():
        optimizer.step()
    with pytest.raises(AssertionError, match='host sync'), NoHostSync():
        global_norm(flagged(optimizer)).item()


def test_zero_3_of_deepspeed_is_refused():
    model = nn.Linear(2, 2)
    kind = type('DeepSpeedZeroOptimizer_Stage3', (), {'__module__': 'deepspeed.runtime.zero.stage3'})
    with pytest.raises(ValueError, match='does not work with DeepSpeedZeroOptimizer_Stage3 of DeepSpeed'):
        fix_norm(kind(), model=model)
