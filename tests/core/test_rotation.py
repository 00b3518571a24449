"""Steps of a given angle, against a naive float64 loop and by what must not matter."""

import copy
import inspect
import logging
import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfixnorm.core import AngleNormFixer, fix_norm, norm_fixing
from mmfixnorm.core.membership import FLAG, places

UNITS = ('set', 'layer', 'filter')


def schedule(step, steps=50, peak=0.05):
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps))


def small_net(affine=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4, affine=affine),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6, affine=affine),
        nn.ReLU(),
        nn.Conv2d(6, 3, 2, bias=False),
        nn.BatchNorm2d(3, affine=affine),
    ).double()


def matrices_net():
    """Matrices alone, for optimizers that take nothing else."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 8, bias=False),
        nn.BatchNorm1d(8, affine=False),
        nn.ReLU(),
        nn.Linear(8, 3, bias=False),
        nn.BatchNorm1d(3, affine=False),
    ).double()


def loss_of(model, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (8,), generator=generator)
    scores = model(x)
    return F.cross_entropy(scores.mean((2, 3)) if scores.ndim == 4 else scores, y)


def convs(model):
    return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def units(tensor, per):
    return list(tensor) if per == 'filter' and tensor.ndim > 2 else [tensor]


def angle_between(a, b):
    return 2 * math.asin(min(1.0, (a / a.norm() - b / b.norm()).norm().item() / 2))  # exact for small angles


def angles_of(before, after, per):
    """The angle by which each unit has turned."""
    if per == 'set':
        before, after = ([torch.cat([t.flatten() for t in tensors])] for tensors in (before, after))
    return [angle_between(u, v) for a, b in zip(before, after) for u, v in zip(units(a, per), units(b, per))]


MAKE = {
    'sgd': lambda groups: torch.optim.SGD(groups, momentum=0.9),
    'nesterov': lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    'nesterov_foreach': lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True, foreach=True),
    'adamw': lambda groups: torch.optim.AdamW(groups, weight_decay=0),
}
if hasattr(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1), 'param_groups') and torch.__version__ >= '2.4':
    MAKE['nesterov_fused'] = lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)


def muon(groups):
    """Muon for the set, and its AdamW part for the rest."""
    library = pytest.importorskip('pytorch_optimizer')
    return library.Muon([{**group, 'use_muon': i == 0} for i, group in enumerate(groups)])


def muon_of_torch(groups):
    if not hasattr(torch.optim, 'Muon'):
        pytest.skip(f'torch {torch.__version__} has no Muon')
    return torch.optim.Muon(groups, weight_decay=0)


def groups_of(model):
    in_set = {id(w) for w in convs(model)}
    others = [p for p in model.parameters() if id(p) not in in_set]
    return [dict(params=convs(model), lr=0.05), *([dict(params=others, lr=0.1)] if others else [])]


def direction(name):
    """The naive step of each inner optimizer, for learning rate 1: gradient -> step, with its own state."""
    state = {}

    def sgd(key, grad, nesterov):
        buf = state[key] = 0.9 * state.get(key, 0) + grad
        return -(grad + 0.9 * buf if nesterov else buf)

    def adam(key, grad):
        m, v, t = state.get(key, (0, 0, 0))
        state[key] = m, v, t = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2, t + 1
        return -(m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    return adam if name == 'adamw' else lambda key, grad: sgd(key, grad, name != 'sgd')


def naive_turn(weight, step, angle):
    tangent = step - weight * (weight * step).sum() / weight.square().sum()
    length = weight.norm()
    return length * (math.cos(angle) * weight / length + math.sin(angle) * tangent / tangent.norm())


def each(step_of):
    """Propose a step for each parameter, from its gradient alone."""
    return lambda params, grads: [step_of(i, grad) for i, grad in enumerate(grads)]


def by_library(make, model):
    """Propose the steps, for learning rate 1, that an optimizer makes on a copy of the model."""
    copied = copy.deepcopy(model)
    optimizer = make([group | dict(lr=1.0) for group in groups_of(copied)])

    def propose(params, grads):
        with torch.no_grad():
            for p, current, grad in zip(copied.parameters(), params, grads):
                p.copy_(current)
                p.grad = grad.clone()
            optimizer.step()
            return [p - current for p, current in zip(copied.parameters(), params)]

    return propose


def naive_run(model, propose, per, steps=50):
    """50 steps by the definition, one unit after the other; the other parameters make the optimizer's own step."""
    names = {id(w) for w in convs(model)}
    for step in range(steps):
        params = [*model.parameters()]
        grads = torch.autograd.grad(loss_of(model, step), params)
        proposed = propose(params, grads)
        angle = schedule(step)
        with torch.no_grad():
            inside = [(p, d) for p, d in zip(params, proposed) if id(p) in names]
            if per == 'set':
                flat = naive_turn(
                    torch.cat([p.flatten() for p, _ in inside]), torch.cat([d.flatten() for _, d in inside]), angle
                )
                new = [part.view_as(p) for part, (p, _) in zip(flat.split([p.numel() for p, _ in inside]), inside)]
            else:
                new = [
                    torch.stack([naive_turn(u, d, angle) for u, d in zip(units(p, per), units(step, per))]).view_as(p)
                    for p, step in inside
                ]
            for (p, _), value in zip(inside, new):
                p.copy_(value)
            for p, d in zip(params, proposed):
                if id(p) not in names:
                    p.add_(d, alpha=2 * angle)


def run(model, make, per, steps=50, scale=lambda step, model: None):
    optimizer = make(groups_of(model))
    fix_norm(optimizer, params=convs(model), update='angle', per=per)
    angles, norms = [], []
    for step in range(steps):
        optimizer.param_groups[0]['lr'] = schedule(step)
        if len(optimizer.param_groups) == 2:
            optimizer.param_groups[1]['lr'] = 2 * schedule(step)
        before = [w.detach().clone() for w in convs(model)]
        optimizer.zero_grad()
        loss_of(model, step).backward()
        scale(step, model)
        optimizer.step()
        if per == 'set':
            pairs = [
                (torch.cat([b.flatten() for b in before]), torch.cat([w.detach().flatten() for w in convs(model)]))
            ]
        else:
            pairs = [pair for b, w in zip(before, convs(model)) for pair in zip(units(b, per), units(w.detach(), per))]
        angles.append([angle_between(a, b) for a, b in pairs])
        norms.append([b.norm().item() / a.norm().item() for a, b in pairs])
    return angles, norms


@pytest.mark.parametrize('per', UNITS)
@pytest.mark.parametrize('name', MAKE)
def test_50_steps_follow_a_naive_loop(name, per):
    model, twin = small_net(), small_net()
    angles, norms = run(model, MAKE[name], per)
    naive_run(twin, each(direction(name)), per)
    assert_equal_and_turned(model, twin, angles, norms)


@pytest.mark.parametrize('per', UNITS)
@pytest.mark.parametrize('make, net', [(muon, small_net), (muon_of_torch, matrices_net)])
def test_50_steps_of_muon_follow_a_naive_loop_that_takes_its_proposals(make, net, per):
    model, twin = net(), net()
    angles, norms = run(model, make, per)
    naive_run(twin, by_library(make, twin), per)
    assert_equal_and_turned(model, twin, angles, norms)


def assert_equal_and_turned(model, twin, angles, norms):
    for (key, p), q in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f'{key}: {text}')
    for step, per_unit in enumerate(angles):
        assert per_unit == pytest.approx([schedule(step)] * len(per_unit), rel=1e-6)
    assert max(abs(n - 1) for row in norms for n in row) < 1e-6


@pytest.mark.parametrize('per', UNITS)
def test_angles_hold_in_float32(per):
    model = small_net().float()
    optimizer = torch.optim.SGD(groups_of(model), momentum=0.9, nesterov=True)
    fix_norm(optimizer, params=convs(model), update='angle', per=per)
    start = [w.detach().double().norm().item() for w in convs(model)]
    for step in range(50):
        optimizer.param_groups[0]['lr'] = schedule(step)
        before = [w.detach().double() for w in convs(model)]
        optimizer.zero_grad()
        (1e-4 * loss_of(model.double(), step)).backward()  # gradients far smaller than the weights
        model.float()
        optimizer.step()
        turned = angles_of(before, [w.detach().double() for w in convs(model)], per)
        assert turned == pytest.approx([schedule(step)] * len(turned), rel=1e-4, abs=1e-6)
    if per != 'set':
        assert [w.detach().double().norm().item() for w in convs(model)] == pytest.approx(start, rel=1e-6)


def times_1000(step, model):
    for p in model.parameters():
        p.grad *= 1000


def one_layer_times_100(step, model):
    convs(model)[1].grad *= 100


@pytest.mark.parametrize('name', ['sgd', 'nesterov', 'adamw'])
@pytest.mark.parametrize(
    'change, per',
    [(times_1000, per) for per in UNITS] + [(one_layer_times_100, per) for per in ('layer', 'filter')],
)
def test_the_size_of_gradients_does_not_matter(name, change, per):
    model, twin = small_net(affine=False), small_net(affine=False)
    run(model, MAKE[name], per)
    run(twin, MAKE[name], per, scale=change)
    for p, q in zip(convs(model), convs(twin)):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3 if name == 'adamw' else 1e-7)  # AdamW adds eps


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
@pytest.mark.parametrize('layers, per', [((0, 1, 2), per) for per in UNITS] + [((1,), 'layer'), ((1,), 'filter')])
def test_the_norm_of_weights_does_not_matter(name, layers, per):
    model, twin = small_net(affine=False), small_net(affine=False)
    for module in [*model, *twin]:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30  # it is what makes the layers scale-invariant only nearly
    with torch.no_grad():
        for i in layers:
            convs(twin)[i].mul_(7)
    run(model, MAKE[name], per)
    run(twin, MAKE[name], per)
    for i, (p, q) in enumerate(zip(convs(model), convs(twin))):
        torch.testing.assert_close(
            7 * p if i in layers else p,
            q,
            rtol=1e-3 if name == 'adamw' else 1e-7,
            atol=1e-3 if name == 'adamw' else 1e-9,
        )


def test_layers_share_one_joint_norm_with_the_set():
    model = small_net()
    start = torch.cat([w.detach().flatten() for w in convs(model)]).norm().item()
    first = [w.detach().norm().item() for w in convs(model)]
    run(model, MAKE['sgd'], 'set')
    assert torch.cat([w.detach().flatten() for w in convs(model)]).norm().item() == pytest.approx(start, rel=1e-12)
    assert [w.detach().norm().item() for w in convs(model)] != pytest.approx(first, rel=1e-3)


def one_step(model, per='layer', lr=0.1, grads=None, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
    if optimizer.param_groups[0].get(FLAG) is None:
        fix_norm(optimizer, params=convs(model), update='angle', per=per)
    for p, grad in zip(model.parameters(), grads):
        p.grad = grad
    optimizer.step()
    return optimizer


def scheduler_of(optimizer):
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)


WRAPPED = {
    'plain': [],
    'scheduler before': [scheduler_of, 'fix'],
    'scheduler after': ['fix', scheduler_of],
    'fixed again': ['fix', scheduler_of, 'fix'],
}


@pytest.mark.parametrize('error', [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize('steps', WRAPPED.values(), ids=WRAPPED)
def test_an_error_in_the_step_leaves_the_weights_before_it(monkeypatch, steps, error):
    if steps[:1] == [scheduler_of] and norm_fixing._TORCH_VERSION < (2, 4):
        pytest.skip('the first torch.compile of a process takes the hooks out of what the scheduler has wrapped')
    model = small_net()
    optimizer = torch.optim.SGD(groups_of(model), momentum=0.9)
    for wrap in steps or ['fix']:
        fix_norm(optimizer, params=convs(model), update='angle') if wrap == 'fix' else wrap(optimizer)
    loss_of(model, 0).backward()
    optimizer.step()
    before, seen = copy.deepcopy(model.state_dict()), []

    def fails(*args, **kwargs):
        seen.append(convs(model)[0].abs().max().item())
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[torch.optim.SGD.__module__], 'sgd', fails)
        with pytest.raises(error):
            optimizer.step()
    assert seen == [0]  # the step is one whose weights are out of the way
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loaded = copy.deepcopy(small_net())
    with torch.no_grad():
        for weight in convs(loaded):
            weight.normal_()
    model.load_state_dict(loaded.state_dict())  # the next step starts from these, not from those before the error
    optimizer.step()
    for weight, old in zip(convs(model), convs(loaded)):
        assert angle_between(weight.detach(), old.detach()) == pytest.approx(0.05)


def test_an_error_after_the_turn_leaves_the_weights_turned():
    model = small_net()
    optimizer = torch.optim.SGD(groups_of(model))
    fix_norm(optimizer, params=convs(model), update='angle')
    optimizer.register_step_post_hook(lambda *_: 1 / 0)
    loss_of(model, 0).backward()
    before = convs(model)[0].detach().clone()
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert angle_between(convs(model)[0].detach(), before) == pytest.approx(0.05)


def test_a_step_that_other_code_has_replaced_does_not_take_the_weights_away(monkeypatch):
    model, seen = small_net(), []
    optimizer = torch.optim.SGD(groups_of(model))
    fix_norm(optimizer, params=convs(model), update='angle')
    loss_of(model, 0).backward()
    del optimizer.step  # the one that puts the weights back
    module = sys.modules[torch.optim.SGD.__module__]
    monkeypatch.setattr(module, 'sgd', lambda *_, **__: seen.append(convs(model)[0].abs().max().item()))
    optimizer.step()
    assert seen[0] > 0


def test_the_step_of_the_class_is_back_when_norm_fixing_is_removed():
    model = small_net()
    optimizer = torch.optim.SGD(groups_of(model))
    norm_fixer = fix_norm(optimizer, params=convs(model), update='angle')
    assert 'step' not in vars(copy.deepcopy(optimizer))
    assert str(inspect.signature(optimizer.step)) == str(inspect.signature(torch.optim.SGD(model.parameters(), 1).step))
    norm_fixer.remove()
    if norm_fixing._TORCH_VERSION >= (2, 4):  # before, the calls of the hooks stay there
        assert 'step' not in vars(optimizer)


def different_rates(model, optimizer):
    optimizer.add_param_group(dict(params=[optimizer.param_groups[0]['params'].pop()], lr=0.2))


def a_weight_of_zeros(model, optimizer):
    nn.init.zeros_(convs(model)[2])


def too_large(model, optimizer):
    optimizer.param_groups[0]['lr'] = 3.2


REFUSED = {
    'beyond pi': (too_large, 'layer', 'an angle of at most pi, got 3.2'),
    'learning rates': (different_rates, 'set', r'learning rates \[0.1, 0.2\]'),
    'zeros': (a_weight_of_zeros, 'layer', r'shape \[\(3, 6, 2, 2\)\] are all zero, so they have no direction'),
}


@pytest.mark.parametrize('decay', [0.0, 1e-4])  # with decay the weights stay in their place in the step
@pytest.mark.parametrize('by_closure', [False, True])
@pytest.mark.parametrize(('change', 'per', 'message'), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings('ignore:weights whose norm is fixed have weight_decay')
def test_a_refused_step_leaves_the_weights_before_it(change, per, message, by_closure, decay):
    model = small_net(affine=False)
    optimizer = torch.optim.SGD(convs(model), lr=0.1, momentum=0.9, weight_decay=decay)
    if change is not too_large:
        change(model, optimizer)
    norm_fixer = fix_norm(optimizer, params=convs(model), update='angle', per=per)
    if change is too_large:  # as by a schedule: before, it is refused at once
        change(model, optimizer)
    before = [w.detach().clone() for w in convs(model)]

    def closure():
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    if not by_closure:
        closure()
    with pytest.raises(ValueError, match=message):
        optimizer.step(closure if by_closure else None)
    assert all(torch.equal(w, old) for w, old in zip(convs(model), before))
    assert norm_fixer.target is None or by_closure
    if not by_closure:
        assert not optimizer.state  # nor did anything else move


@pytest.mark.parametrize('per', ['layer', 'filter'])
def test_a_zero_gradient_is_no_step(per):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(2, 1, 3, bias=False)).double()
    before = copy.deepcopy(model)
    one_step(model, per, grads=[torch.zeros_like(model[0].weight), torch.randn_like(model[1].weight)])
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[1].weight, before[1].weight)
    assert all(p.isfinite().all() for p in model.parameters())


# With decay the weights stay in their place in the step, and a small step has no digits beside them.
SIZES = [
    *((torch.float32, size, 0.0) for size in (1e-40, 1e-25, 1e25, 1e37)),
    *((torch.float32, size, 1e-30) for size in (1e25, 1e37)),
    *((torch.bfloat16, size, 0.0) for size in (1e-30, 1e30)),
    *((torch.float16, size, 0.0) for size in (1e-4, 1e4)),
]


@pytest.mark.parametrize(('dtype', 'size', 'decay'), SIZES)
@pytest.mark.parametrize('per', UNITS)
@pytest.mark.filterwarnings('ignore:weights whose norm is fixed have weight_decay')
def test_the_angle_holds_for_gradients_of_any_finite_size(dtype, size, per, decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)).to(dtype)
    before = [w.detach().double() for w in convs(model)]
    optimizer = torch.optim.SGD(convs(model), lr=0.1, weight_decay=decay)
    fix_norm(optimizer, params=convs(model), update='angle', per=per)
    for w, factor in zip(convs(model), (size, size if per == 'set' else 1.0)):
        w.grad = (torch.randn(w.shape).clamp(-2, 2) * factor).to(dtype)
    optimizer.step()
    turned = angles_of(before, [w.detach().double() for w in convs(model)], per)
    assert turned == pytest.approx([0.1] * len(turned), rel=1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize('per', UNITS)
def test_a_step_whose_square_overflows_float64_is_seen(per):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)).double()
    one_step(model, per, grads=[torch.randn_like(p) * 1e300 for p in model.parameters()])
    assert all(p.isnan().any() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_step_along_the_weights_turns_nothing(dtype):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(2, 1, 1, bias=False)).to(dtype)
    before = copy.deepcopy(model)
    one_step(model, grads=[-0.3 * p.detach() for p in model.parameters()])
    for p, q in zip(model.parameters(), before.parameters()):
        torch.testing.assert_close(p, q)


def test_a_filter_of_one_element_stays():
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False))
    before = model[0].weight.detach().clone()
    one_step(model, 'filter', grads=[torch.randn(3, 1, 1, 1)])
    torch.testing.assert_close(model[0].weight.detach(), before)


def test_a_closure_is_not_run_on_other_weights():
    model, twin = small_net(), small_net()
    losses = []
    for network, by_closure in ((model, True), (twin, False)):
        optimizer = torch.optim.SGD(groups_of(network), momentum=0.9)
        fix_norm(optimizer, params=convs(network), update='angle')
        for step in range(5):

            def closure():
                optimizer.zero_grad()  # noqa: B023
                loss = loss_of(network, step)  # noqa: B023
                loss.backward()
                return loss

            if by_closure:
                losses.append(optimizer.step(closure).item())
            else:
                assert closure().item() == pytest.approx(losses[step], rel=1e-6)
                optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)


OF_TORCH = [
    'SGD',
    'Adam',
    'AdamW',
    'NAdam',
    'RAdam',
    'Adamax',
    'Adadelta',
    'Adagrad',
    'RMSprop',
    'Rprop',
    'ASGD',
    'Adafactor',
    'Muon',
]


@pytest.mark.parametrize('name', OF_TORCH)
def test_the_step_and_the_state_are_those_of_the_optimizer_on_the_weights(name):
    if not hasattr(torch.optim, name):
        pytest.skip(f'torch {torch.__version__} has no {name}')
    kind = getattr(torch.optim, name)
    options = {'weight_decay': 0.0} if 'weight_decay' in inspect.signature(kind).parameters else {}
    model, twin = matrices_net(), matrices_net()
    optimizer, plain = (kind(convs(net), lr=0.05, **options) for net in (model, twin))
    fix_norm(optimizer, params=convs(model), update='angle', per='set')
    for net, own in ((model, optimizer), (twin, plain)):
        loss_of(net, 0).backward()
        own.step()
    start, end, stepped = (
        torch.cat([w.detach().flatten() for w in convs(net)]) for net in (matrices_net(), model, twin)
    )
    torch.testing.assert_close(end, naive_turn(start, stepped - start, 0.05), rtol=1e-6, atol=1e-8)
    for w, v in zip(convs(model), convs(twin)):
        for key, value in plain.state[v].items():
            torch.testing.assert_close(optimizer.state[w][key], value, msg=key)


def test_a_step_that_is_disabled_for_the_compiler_turns_once(monkeypatch):
    # As torch 2.1 does with it at the first torch.compile of a process.
    monkeypatch.setattr(torch.optim.RAdam, 'step', torch._dynamo.disable(torch.optim.RAdam.step))
    model = matrices_net()
    optimizer = torch.optim.RAdam(convs(model), lr=0.05)
    fix_norm(optimizer, params=convs(model), update='angle')
    before = [w.detach().clone() for w in convs(model)]
    loss_of(model, 0).backward()
    optimizer.step()
    assert [angle_between(w.detach(), old) for w, old in zip(convs(model), before)] == pytest.approx(
        [0.05] * len(before)
    )


def test_an_optimizer_that_reads_the_weights_sees_them():
    seen = []

    class Reads(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]['params'][0].detach().norm().item())
            return super().step(closure)

    model = small_net()
    norm = convs(model)[0].detach().norm().item()
    optimizer = Reads(groups_of(model), momentum=0.9)
    fix_norm(optimizer, params=convs(model), update='angle')
    loss_of(model, 0).backward()
    optimizer.step()
    assert seen == pytest.approx([norm])


@pytest.mark.parametrize('decay', [0.0, 1e-4])
@pytest.mark.parametrize(('dtype', 'angle', 'size'), [(torch.float32, 2e-5, 1e-5), (torch.bfloat16, 0.02, 1e-3)])
def test_small_steps_keep_their_direction_whatever_the_decay_of_other_groups(decay, dtype, angle, size):
    weight = nn.Parameter((torch.randn(16, 16, 3, 3) * 0.05).to(dtype))
    other = nn.Parameter(torch.randn(4, dtype=dtype))
    groups = [dict(params=[weight], weight_decay=0.0), dict(params=[other], weight_decay=decay)]
    optimizer = torch.optim.SGD(groups, lr=angle)
    fix_norm(optimizer, params=[weight], update='angle')
    before = weight.detach().double()
    weight.grad, other.grad = (torch.randn_like(before) * size).to(dtype), torch.zeros_like(other)
    tangent = -weight.grad.double()
    tangent -= before * (tangent * before).sum() / before.square().sum()
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(weight.detach().double()))
    optimizer.step()
    step = seen[0] - before
    # Without rounding to steps of the weights it is 1; the weights themselves are rounded after the turn.
    assert torch.cosine_similarity(step.flatten(), tangent.flatten(), dim=0) > 0.8


LOOKS = {
    'before': lambda o, look: o.register_step_pre_hook(look),
    'after': lambda o, look: o.register_step_post_hook(look),
}


@pytest.mark.parametrize('registered', ['first', 'last'])
@pytest.mark.parametrize('when', LOOKS)
def test_hooks_of_others_see_the_weights(when, registered):
    model, norms = small_net(), []
    weight = convs(model)[0]
    start = weight.detach().norm().item()
    optimizer = torch.optim.SGD(groups_of(model), momentum=0.9)
    if registered == 'first':
        LOOKS[when](optimizer, lambda *_: norms.append(weight.detach().norm().item()))
    fix_norm(optimizer, params=convs(model), update='angle')
    if registered == 'last':
        LOOKS[when](optimizer, lambda *_: norms.append(weight.detach().norm().item()))
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    assert norms == pytest.approx([start] * 3, rel=1e-6)


@pytest.mark.parametrize('update', ['step', 'angle'])
@pytest.mark.parametrize('share', [1e-1, 1e-3, 1e-4])
def test_what_is_left_keeps_its_norm_where_it_is_a_small_part_of_the_set(share, update):
    for seed in range(4):
        torch.manual_seed(seed)
        large = [nn.Parameter(torch.randn(16, 16, 3, 3)) for _ in range(3)]
        small = nn.Parameter(torch.randn(4, 4))
        small.data *= share * torch.cat([w.detach().flatten() for w in large]).norm() / small.detach().norm()
        weights = [*large, small]
        optimizer = torch.optim.SGD(weights, lr=0.02 if update == 'angle' else 1e-3, momentum=0.9)
        norm_fixer = fix_norm(optimizer, params=weights, update=update)
        for _ in range(4):
            for weight in weights:
                weight.grad = torch.randn_like(weight) * weight.detach().norm() / weight.numel()
            optimizer.step()
        norm = small.detach().norm().item()
        for weight in large:
            weight.requires_grad_(False).grad = None
        for number in range(4):
            small.grad = torch.randn_like(small) * norm / small.numel()
            optimizer.step()
            assert small.detach().norm().item() == pytest.approx(norm, rel=1e-5)
            if number == 1:  # resumed: the same number
                state = norm_fixer.state_dict()
                norm_fixer.load_state_dict(state, optimizer)
                assert norm_fixer.state_dict() == state
                norm_fixer.load_state_dict(state | {'rest': None}, optimizer)
                assert norm_fixer.state_dict()['rest'] is None
                norm_fixer.load_state_dict(state, optimizer)
        for weight in large:
            weight.requires_grad_(True).grad = torch.randn_like(weight) * 1e-3
        optimizer.step()
        joint = torch.cat([w.detach().double().flatten() for w in weights]).norm().item()
        assert joint == pytest.approx(norm_fixer.target, rel=1e-6)


@pytest.mark.parametrize('per', UNITS)
def test_frozen_and_late_weights_stay_and_join(per):
    model = small_net()
    optimizer = torch.optim.SGD(groups_of(model), momentum=0.9)
    norm_fixer = fix_norm(optimizer, params=convs(model), update='angle', per=per)
    start = torch.cat([w.detach().flatten() for w in convs(model)]).norm().item()
    first, last = convs(model)[0], convs(model)[2]
    for step in range(12):
        first.requires_grad_(step >= 4)
        last.requires_grad_(step < 8)
        before = [w.detach().clone() for w in convs(model)]
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        for tensor, old, moves in ((first, before[0], step >= 4), (last, before[2], step < 8)):
            assert torch.equal(tensor, old) != moves
        assert torch.cat([w.detach().flatten() for w in convs(model)]).norm().item() == pytest.approx(start, rel=1e-9)
    assert norm_fixer.target == pytest.approx(start, rel=1e-9)
    assert len(places(optimizer, FLAG)) == 3


def test_a_resumed_run_has_the_same_bits():
    def steps(model, optimizer, first, last):
        for step in range(first, last):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()

    def built():
        model = small_net()
        optimizer = torch.optim.SGD(groups_of(model), momentum=0.9, nesterov=True)
        return model, optimizer, fix_norm(optimizer, params=convs(model), update='angle')

    model, optimizer, norm_fixer = built()
    steps(model, optimizer, 0, 3)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), norm_fixer.state_dict()))
    steps(model, optimizer, 3, 6)
    again, again_optimizer, again_fixer = built()
    again.load_state_dict(state[0])
    again_optimizer.load_state_dict(state[1])
    again_fixer.load_state_dict(state[2], again_optimizer)
    steps(again, again_optimizer, 3, 6)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters()))
    with pytest.raises(ValueError, match='kept the norm per set, turned by angle per layer, this one keeps it per set'):
        fix_norm(again_optimizer, params=convs(again)).load_state_dict(state[2], again_optimizer)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(update='turn'), "update must be 'step' or 'angle', got 'turn'"),
        (dict(update='angle', per='tensor'), "per must be 'set', 'layer' or 'filter', got 'tensor'"),
        (dict(per='layer'), "per is for update='angle' alone, got 'layer'"),
    ],
)
def test_unknown_arguments_are_refused(arguments, message):
    model = small_net()
    with pytest.raises(ValueError, match=message):
        fix_norm(torch.optim.SGD(model.parameters(), lr=0.1), model=model, **arguments)


def test_a_step_that_the_scaler_skips_changes_no_bit():
    model = small_net().float()
    try:
        optimizer = torch.optim.SGD(groups_of(model), fused=True)
    except (RuntimeError, ValueError, TypeError):
        pytest.skip(f'torch {torch.__version__} has no fused SGD for the CPU')
    assert isinstance(fix_norm(optimizer, params=convs(model), update='angle'), AngleNormFixer)
    before = copy.deepcopy(model.state_dict())
    for p in model.parameters():
        p.grad = torch.full_like(p, math.inf)
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.ones(())
    optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('angle', [-0.02, 3.2])
def test_an_angle_that_is_none_is_refused(angle):
    model = small_net()
    optimizer = torch.optim.SGD(groups_of(model))
    optimizer.param_groups[0]['lr'] = angle
    with pytest.raises(ValueError, match=f'an angle from 0 to pi, in radians, got {angle}'):
        fix_norm(optimizer, params=convs(model), update='angle')


@pytest.mark.parametrize(('angle', 'lines'), [(0.5, 0), (0.8, 1)])
def test_a_large_angle_is_warned_of_once(monkeypatch, angle, lines):
    written = []
    monkeypatch.setattr(logging.getLogger('mmfixnorm'), 'warning', written.append)
    model = small_net()
    optimizer = torch.optim.SGD(convs(model), lr=angle)
    fix_norm(optimizer, params=convs(model), update='angle')
    loss_of(model, 0).backward()
    for _ in range(2):
        optimizer.step()
    assert len(written) == lines
    assert all('the learning rate 0.8 is an angle' in line for line in written)


@pytest.mark.filterwarnings('ignore:Initializing zero-element tensors')
@pytest.mark.parametrize('per', UNITS)
def test_a_weight_without_elements_turns_nothing(per):
    model = nn.Sequential(nn.Linear(0, 4, bias=False), nn.Linear(4, 3, bias=False))
    before = model[1].weight.detach().clone()
    one_step(model, per, grads=[torch.randn_like(p) for p in model.parameters()])
    assert angle_between(model[1].weight.detach(), before) == pytest.approx(0.1, rel=1e-5)
