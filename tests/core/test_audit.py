"""The audit leaves everything as it was, measures groups, and says what is wrong with what it is given."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.utils.checkpoint as cp
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from mmfixnorm.core import audit
from mmfixnorm.core.audit.precision import DoublePrecision, single_precision


class Branches(nn.Module):
    """Two convolutions that only together are scale-invariant, and a classifier."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 4, 3, bias=False) for _ in range(2))
        self.norm, self.drop, self.fc = nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.drop(self.norm(self.a(x) + self.b(x)).relu()).mean((2, 3)))


@pytest.fixture
def net():
    net = Branches()
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    net.a.weight.grad = None
    net.b.weight.requires_grad_(False)
    net.norm.eval()
    return net


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def everything(net):
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return dict(
        tensors={name: t.detach().clone() for name, t in tensors.items()},
        same={name: id(t) for name, t in tensors.items()},
        grads={name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()},
        requires_grad={name: p.requires_grad for name, p in net.named_parameters()},
        modes={name: m.training for name, m in net.named_modules()},
        hooks=[(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        eps=net.norm.eps,
        default=torch.get_default_dtype(),
        checkpoints=id(cp.CheckpointFunction),
        random=(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
    )


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize('fails_at', [None, 1, 3, 6, 12])
def test_the_model_and_the_random_states_are_as_before_also_after_an_error(net, fails_at):
    calls = []

    def forward(model):
        calls.append(1)
        if len(calls) == fails_at:
            raise ArithmeticError('injected')
        return model(IMAGES)

    before = copy.deepcopy(everything(net)) | {'same': everything(net)['same']}
    if fails_at:
        with pytest.raises(ArithmeticError, match='injected'):
            audit(net, forward)
    else:
        audit(net, forward)
        assert len(calls) > 12
    after = everything(net)
    for key in before:
        if key == 'random':
            assert after[key][:2] == before[key][:2]
            assert torch.equal(after[key][2], before[key][2])
        elif key in ('tensors', 'grads'):
            assert before[key].keys() == after[key].keys()
            for name, value in before[key].items():
                assert (value is None) == (after[key][name] is None)
                assert value is None or torch.equal(value, after[key][name])
        else:
            assert after[key] == before[key], key


def test_two_weights_that_fail_alone_hold_together():
    report = audit(Branches(), IMAGES, groups={'both': ['a.weight', 'b.weight'], 'all': ['a.weight', 'fc.weight']})
    both, wrong, found = report.groups
    assert (both.scale_invariant, both.failing) == (True, ('a.weight', 'b.weight'))
    assert not wrong.scale_invariant
    assert (set(found.weights), found.scale_invariant) == ({'a.weight', 'b.weight'}, True)


def test_a_model_in_evaluation_mode_is_measured_in_training_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert audit(net, IMAGES)['0.weight'].scale_invariant
    assert not net.training


@pytest.mark.parametrize(
    'inputs', [IMAGES, (IMAGES,), {'x': IMAGES}, lambda m: {'loss': [m(IMAGES).square().mean()], 'note': 'text'}]
)
def test_every_kind_of_inputs_gives_the_same_answer(inputs):
    report = audit(Branches(), inputs, explain=False)
    assert [record.scale_invariant for record in report.weights] == [False, False, False]


def test_a_classifier_in_front_of_a_softmax_is_to_become_fixnorm_and_a_regressor_wn():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    target = torch.tensor([0, 1, 2, 0])
    record = audit(net, lambda m: nn.functional.cross_entropy(m(IMAGES), target))['1.weight']
    assert 'FixNorm' in record.advice
    record = audit(net, lambda m: nn.functional.mse_loss(m(IMAGES), torch.ones(4, 3)))['1.weight']
    assert record.advice.startswith('WN')


class Pyramid(nn.Module):
    """The upper level is added to the lower one, and a classifier that both share looks at each."""

    def __init__(self):
        super().__init__()
        self.upper, self.lower, self.fc = nn.Linear(192, 8), nn.Linear(192, 8), nn.Linear(8, 3, bias=False)

    def forward(self, x):
        upper, lower = self.upper(x.flatten(1)), self.lower(x.flatten(1))
        return self.fc(lower + upper), self.fc(upper)


def test_a_layer_below_the_classifier_of_another_level_is_not_taken_for_the_last_one():
    net, target = Pyramid(), torch.tensor([0, 1, 2, 0])
    nn.init.zeros_(net.upper.bias)  # so its scale is a factor of the upper logits
    report = audit(net, lambda m: sum(nn.functional.cross_entropy(logits, target) for logits in m(IMAGES)))
    advice = {name: report[f'{name}.weight'].advice for name in ('upper', 'lower', 'fc')}
    assert advice['fc'] == 'FixNorm (last layer)'
    assert 'FixNorm' not in advice['upper'] + advice['lower']


def test_a_weight_that_was_not_audited_is_a_key_error_that_lists_the_weights():
    with pytest.raises(KeyError, match=r"no weight '0\.bias' was audited; there are 0\.weight"):
        audit(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), IMAGES)['0.bias']


def test_the_effect_of_epsilon_is_reported_and_does_not_decide():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1))
    report = audit(net, IMAGES)
    assert report['0.weight'].scale_invariant
    assert report.epsilon_effect > 0.01
    assert report['0.weight'].deviation < 1e-6


class Stream(nn.Module):
    """A residual stream with a norm at its end, and a loss that hardly depends on any one weight."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(8), nn.Linear(8, 1000)
        self.blocks = nn.ModuleList(nn.Sequential(nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(12))
        nn.init.normal_(self.fc.weight, std=0.02)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(self.norm(x.mean((2, 3))))


@pytest.mark.parametrize('seed', [1, 2])
def test_a_weight_that_a_loss_hardly_depends_on_is_not_scale_invariant_for_that(seed):
    torch.manual_seed(seed)
    labels = torch.tensor([5, 900, 333, 1])
    report = audit(Stream(), lambda m: nn.functional.cross_entropy(m(IMAGES), labels), explain=False)
    assert max(record.deviation for record in report.weights) < 0.03  # so little moves the loss
    assert not any(record.scale_invariant for record in report.weights)


class InlineNorm(nn.Conv2d):
    """A convolution and a norm of each channel whose epsilon is no attribute."""

    eps = None

    def forward(self, x):
        x = super().forward(x)
        variance, mean = torch.var_mean(x, (0, 2, 3), keepdim=True)
        return ((x - mean) / (variance + self.eps[0]).sqrt()).relu()


@pytest.mark.parametrize('quick', [[], [IMAGES]], ids=['float64', 'float32 first'])
@pytest.mark.parametrize(('eps', 'invariant'), [(1e-3, True), (0.1, False)])
def test_a_small_epsilon_that_cannot_be_taken_away_is_told_from_a_scale(eps, invariant, quick):
    layer = InlineNorm(3, 4, 3)
    layer.eps = [eps]
    record = audit(layer, IMAGES, quick=quick).weights[0]
    assert record.deviation > 1e-6
    assert record.scale_invariant is invariant


def test_groups_are_not_looked_for_unless_asked():
    net = Branches()
    report = audit(net, IMAGES, groups={'both': ['a.weight', 'b.weight']}, find_groups=False)
    assert [group.name for group in report.groups] == ['both']
    assert report.weights == audit(net, IMAGES).weights


class Forgetful(nn.Sequential):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize(
    ('net', 'kwargs', 'error', 'text'),
    [
        (Branches, dict(inputs=3), TypeError, 'got int'),
        (Branches, dict(inputs=lambda m: 'x'), TypeError, 'no output depends on a parameter'),
        (Branches, dict(dtype=torch.float16), ValueError, 'got torch.float16'),
        (Branches, dict(scales=(1.0,)), ValueError, r'got \(1.0,\)'),
        (Branches, dict(groups={'x': ['fc.bias']}), ValueError, "'fc.bias'"),
        (lambda: Forgetful(nn.Conv2d(3, 4, 3)), {}, RuntimeError, 'must be repeatable'),
        (Branches, dict(inputs=IMAGES * float('nan')), RuntimeError, 'finite'),
    ],
)
def test_mistakes_are_told(net, kwargs, error, text):
    with pytest.raises(error, match=text):
        audit(net(), **{'inputs': IMAGES, **kwargs})


class Single(nn.Module):
    """Asks for float32 by name, as heads and losses of the toolboxes do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(self.conv(x)).float().mean(dim=(2, 3))
        targets = torch.zeros(len(x), 2, dtype=torch.float32)
        targets[torch.arange(len(x)), 0] = self.fc(x.relu()).softmax(1, dtype=torch.float32)[:, 1]  # index_put
        scale = torch.from_numpy(np.full(2, 3.0, dtype=np.float32))
        return (targets.half() @ torch.diag(scale)).sum()


def test_a_model_that_asks_for_float32_is_measured_in_float64():
    torch.manual_seed(0)
    report = audit(Single(), IMAGES)
    assert {r.name: r.scale_invariant for r in report.weights} == {'conv.weight': True, 'fc.weight': False}
    assert report['conv.weight'].deviation < 1e-9  # far less than float32 could tell
    assert report.dtype == 'float64'


def test_tensors_that_are_written_to_stay_what_they_are():
    narrow = torch.zeros(3, dtype=torch.float32)
    with DoublePrecision():
        narrow.add_(torch.ones(3, dtype=torch.float64))
        narrow[torch.tensor([0])] = torch.ones(1, dtype=torch.float64) * 5
        wide = torch.ones(2, dtype=torch.float16) + narrow[:2]
        with single_precision():
            left = torch.ones(2, dtype=torch.float32)
    assert (narrow.dtype, wide.dtype, left.dtype) == (torch.float32, torch.float64, torch.float32)
    assert narrow.tolist() == [5, 1, 1]


def test_a_sparse_tensor_on_the_way_is_followed():
    """As in FreeAnchor's loss; it has no storage by which a weight would be known."""

    class Sparse(nn.Sequential):
        def forward(self, x):
            return torch.sparse.mm(super().forward(x).flatten(1).to_sparse(), torch.ones(4, 2, dtype=x.dtype))

    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    report = audit(Sparse(nn.Conv2d(3, 4, 8, bias=False), nn.Flatten()), images)
    assert [(record.name, record.scale_invariant) for record in report.weights] == [('0.weight', False)]


@pytest.mark.parametrize('light', [torch.randn(2, 3, 6, 6), torch.randn(2, 3, 1, 1)], ids=['smaller', 'too small'])
def test_light_inputs_change_no_answer(light):
    torch.manual_seed(0)
    model = Branches()
    usual, light = audit(model, IMAGES), audit(model, IMAGES, light=[light], quick=[light])
    assert [(r.name, r.scale_invariant, r.cause, r.reason) for r in light.weights] == [
        (r.name, r.scale_invariant, r.cause, r.reason) for r in usual.weights
    ]
    assert [g.weights for g in light.groups] == [g.weights for g in usual.groups]


def test_only_what_is_asked_for_is_followed_through_the_forward():
    model = Branches()
    said: list[str] = []
    report = audit(model, IMAGES, follow=[], progress=said.append)
    assert not any('through the forward' in text for text in said)
    assert {r.cause for r in report.weights if not r.scale_invariant} <= {'no_norm', 'bias', 'shared'}


class Functional(Branches):
    """Uses the weight of its classifier without calling the layer, as Swin-v2 does with its queries and keys."""

    def forward(self, x):
        return nn.functional.linear(self.norm(self.a(x) + self.b(x)).mean((2, 3)), self.fc.weight)


def test_a_layer_whose_weight_something_else_uses_is_told():
    report = audit(Functional(), IMAGES, explain=False)
    assert {r.name: r.called for r in report.weights} == {'a.weight': True, 'b.weight': True, 'fc.weight': False}


class DetachedNorm(nn.Module):
    """A convolution with a unit norm that no gradient passes through: scale-invariant, but not by its gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 3)

    def forward(self, x):
        weight = self.conv.weight / self.conv.weight.detach().norm()
        return self.fc(nn.functional.conv2d(x, weight).mean((2, 3)))


@pytest.mark.parametrize(('model', 'misses'), [(Branches, set()), (Functional, set()), (DetachedNorm, {'conv.weight'})])
def test_a_brief_audit_takes_fewer_forwards_and_misses_but_a_detached_norm(model, misses):
    torch.manual_seed(0)
    net = model()
    full, brief = (_counted(net, brief=brief) for brief in (False, True))
    assert brief[1] < full[1]
    answers = [{r.name: (r.scale_invariant, r.cause) for r in report.weights} for report, _ in (full, brief)]
    assert {name for name in answers[0] if answers[0][name] != answers[1][name]} == misses
    assert all(answers[0][name][0] and not answers[1][name][0] for name in misses)
    assert brief[0].epsilon_effect is None


def _counted(net, **options):
    calls = []

    def losses(copied):
        calls.append(1)
        return copied(IMAGES.to(next(copied.parameters()).dtype))

    return audit(net, losses, **options), len(calls)


class Cached(Branches):
    """Keeps a tensor computed from a parameter, and a buffer of the size of its last input."""

    def __init__(self):
        super().__init__()
        self.start = self.fc.weight * 2
        self.register_buffer('ramp', torch.ones(8))

    def forward(self, x):
        if self.ramp.shape[0] != x.shape[-1]:
            self.ramp = torch.ones(x.shape[-1])
        return super().forward(x * self.ramp)


def test_computed_tensors_are_copied_and_buffers_of_another_size_are_put_back():
    report = audit(Cached(), IMAGES, light=[torch.randn(2, 3, 6, 6)], quick=[torch.randn(2, 3, 6, 6)])
    assert {r.name: r.scale_invariant for r in report.weights} == {
        'a.weight': False,
        'b.weight': False,
        'fc.weight': False,
    }
    assert [group.weights for group in report.groups] == [('a.weight', 'b.weight')]


@pytest.mark.parametrize('name', ['light', 'quick'])
def test_a_tensor_in_place_of_a_list_of_inputs_is_told(name):
    with pytest.raises(TypeError, match=rf'{name} must be a list of inputs, such as \[tensor\], got Tensor'):
        audit(Branches(), IMAGES, **{name: IMAGES})


CHECKPOINTS = {
    'none': lambda stem, x: stem(x),
    'by the module': lambda stem, x: cp.checkpoint(stem, x, use_reentrant=True),
    'by the function': lambda stem, x: checkpoint(stem, x, use_reentrant=True),
    'sequential': lambda stem, x: checkpoint_sequential(stem, 2, x, use_reentrant=True),
    'not reentrant': lambda stem, x: checkpoint(stem, x, use_reentrant=False),
}


class Ramp(nn.Module):
    """Makes a tensor of the default type, also where a backward runs the forward again."""

    def forward(self, x):
        return x * torch.linspace(1, 2, x.shape[-1])


class Checkpointed(nn.Module):
    def __init__(self, by):
        super().__init__()
        torch.manual_seed(0)
        self.by, self.first, self.fc = by, nn.Conv2d(3, 3, 1), nn.Linear(4, 3)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.3), Ramp(), nn.Conv2d(4, 4, 3)
        )

    def forward(self, x):
        return self.fc(CHECKPOINTS[self.by](self.stem, self.first(x)).relu().mean((2, 3)))


@pytest.mark.parametrize('by', [by for by in CHECKPOINTS if by != 'none'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_a_model_with_activation_checkpointing_is_measured_as_without(by, dtype):
    assert audit(Checkpointed(by), IMAGES, dtype=dtype) == audit(Checkpointed('none'), IMAGES, dtype=dtype)
