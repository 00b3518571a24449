"""The audit against small networks whose answer is known on paper."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfixnorm.core import FixNormConv2d, FixNormLinear, WNConv2d, WNLinear, audit

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
TOKENS = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(4))
VECTORS = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
INVARIANT = 'invariant'


class Case(NamedTuple):
    """A network, what it is called with, and the cause by weight; ``invariant`` for a scale-invariant one."""

    net: nn.Module
    inputs: object
    truth: dict[str, str]


def conv(i=3, o=4, k=3, **kwargs):
    return nn.Conv2d(i, o, k, padding=k // 2, **kwargs)


class Net(nn.Module):
    """Named layers and a function of them and the input."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


class StandardisedConv2d(nn.Conv2d):
    """Weight standardisation: each filter with mean 0 and variance 1 (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / std, self.bias)


class DropPath(nn.Module):
    """Stochastic depth: whole samples of a branch are dropped."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype) < 0.7) / 0.7


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.attn(x, x, x)[0])


class NormedAttention(nn.Module):
    """Attention whose queries and keys are normalised, and whose values are not."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.qn, self.kn, self.out = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        scores = self.qn(self.q(x)) @ self.kn(self.k(x)).transpose(1, 2)
        return self.out(scores.softmax(-1) @ self.v(x))


def frozen(net, *names):
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    return net


def in_evaluation(net, *names):
    net.train()
    for name in names:
        net.get_submodule(name).eval()
    return net


def stored_tail():
    return in_evaluation(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), nn.BatchNorm2d(4)), '1')


def shared_once_normed():
    a, b = conv(3, 3), conv(3, 3)
    b.weight = a.weight
    return Net(lambda m, x: (m.bn(m.a(x)), m.b(x)), a=a, b=b, bn=nn.BatchNorm2d(3))


def shared_both_normed():
    a, b = conv(3, 3), conv(3, 3)
    b.weight = a.weight
    return Net(lambda m, x: m.bn2(m.b(m.bn1(m.a(x)).relu())), a=a, b=b, bn1=nn.BatchNorm2d(3), bn2=nn.BatchNorm2d(3))


def squeeze_excitation():
    def forward(m, x):
        x = m.bn(m.conv(x))
        gate = m.fc2(m.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.bn2(m.last(x * gate))

    layers = dict(conv=conv(), bn=nn.BatchNorm2d(4), fc1=conv(4, 2, 1), fc2=conv(2, 4, 1), last=conv(4, 4))
    return Net(forward, **layers, bn2=nn.BatchNorm2d(4))


def constant_at_the_start(net):
    """Biases at zero and a layer scale of 1e-6, as initialisations have them."""
    for name, param in net.named_parameters():
        if name.endswith('bias'):
            nn.init.zeros_(param)
    return net


class LayerScale(nn.Module):
    def __init__(self, value=1e-6):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((3, 1, 1), value))

    def forward(self, x):
        return x * self.gamma


S = nn.Sequential
BN = nn.BatchNorm2d
CASES = {
    'conv-BN': lambda: Case(S(conv(bias=False), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-bias-BN': lambda: Case(S(conv(), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-GN': lambda: Case(S(conv(bias=False), nn.GroupNorm(2, 4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-bias-GN': lambda: Case(S(conv(), nn.GroupNorm(2, 4)), IMAGES, {'0.weight': 'bias'}),
    'conv-IN': lambda: Case(S(conv(), nn.InstanceNorm2d(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-ReLU-BN': lambda: Case(S(conv(bias=False), nn.ReLU(), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-bias-ReLU-BN': lambda: Case(S(conv(), nn.ReLU(), BN(4)), IMAGES, {'0.weight': 'bias'}),
    'bias of zero at the start': lambda: Case(
        constant_at_the_start(S(conv(), nn.ReLU(), BN(4))), IMAGES, {'0.weight': 'bias'}
    ),
    'frozen bias of zero': lambda: Case(
        frozen(constant_at_the_start(S(conv(), nn.ReLU(), BN(4))), '0.bias'), IMAGES, {'0.weight': INVARIANT}
    ),
    'conv-GELU-BN': lambda: Case(S(conv(bias=False), nn.GELU(), BN(4)), IMAGES, {'0.weight': 'activation'}),
    'conv-sigmoid-BN': lambda: Case(S(conv(bias=False), nn.Sigmoid(), BN(4)), IMAGES, {'0.weight': 'activation'}),
    'conv-LeakyReLU-BN': lambda: Case(S(conv(bias=False), nn.LeakyReLU(), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-max-pool-BN': lambda: Case(S(conv(), nn.MaxPool2d(2), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-avg-pool-BN': lambda: Case(S(conv(), nn.AvgPool2d(2), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-dropout-BN': lambda: Case(S(conv(bias=False), nn.Dropout(0.5), BN(4)), IMAGES, {'0.weight': INVARIANT}),
    'conv-conv-BN': lambda: Case(
        S(conv(bias=False), conv(4, 5), BN(5)), IMAGES, {'0.weight': INVARIANT, '1.weight': INVARIANT}
    ),
    'depthwise': lambda: Case(
        S(conv(3, 6, groups=3), BN(6), nn.ReLU6(), conv(6, 4, 1), BN(4)),
        IMAGES,
        {'0.weight': INVARIANT, '3.weight': INVARIANT},
    ),
    'BN without affine': lambda: Case(S(conv(), BN(4, affine=False)), IMAGES, {'0.weight': INVARIANT}),
    'BN that tracks nothing, in evaluation': lambda: Case(
        in_evaluation(S(conv(), BN(4, track_running_stats=False)), '1'), IMAGES, {'0.weight': INVARIANT}
    ),
    'frozen BN': lambda: Case(stored_tail(), IMAGES, {'0.weight': 'stored_statistics', '3.weight': INVARIANT}),
    'frozen BN behind which nothing normalises': lambda: Case(
        in_evaluation(S(conv(bias=False), BN(4)), '1'), IMAGES, {'0.weight': 'stored_statistics'}
    ),
    'frozen weight': lambda: Case(frozen(S(conv(), BN(4)), '0.weight'), IMAGES, {'0.weight': 'frozen'}),
    'frozen weight without a norm': lambda: Case(
        frozen(S(conv(), nn.ReLU(), conv(4, 2, bias=False), BN(2)), '0.weight'),
        IMAGES,
        {'0.weight': 'bias', '2.weight': INVARIANT},
    ),
    'residual before the norm': lambda: Case(
        Net(lambda m, x: m.bn(x + m.conv(x)), conv=conv(3, 3), bn=BN(3)), IMAGES, {'conv.weight': 'second_path'}
    ),
    'residual after the norm': lambda: Case(
        Net(lambda m, x: x + m.bn(m.conv(x)), conv=conv(3, 3), bn=BN(3)), IMAGES, {'conv.weight': INVARIANT}
    ),
    'un-normalised shortcut': lambda: Case(
        Net(
            lambda m, x: m.bn2(m.last((m.shortcut(x) + m.bn(m.conv(x))).relu())),
            conv=conv(),
            bn=BN(4),
            shortcut=conv(3, 4, 1),
            last=conv(4, 4),
            bn2=BN(4),
        ),
        IMAGES,
        {'conv.weight': INVARIANT, 'shortcut.weight': 'second_path', 'last.weight': INVARIANT},
    ),
    'two branches in one norm': lambda: Case(
        Net(lambda m, x: m.bn(m.a(x) + m.b(x)), a=conv(bias=False), b=conv(bias=False), bn=BN(4)),
        IMAGES,
        {'a.weight': 'second_path', 'b.weight': 'second_path'},
    ),
    'concatenation of normed and un-normed': lambda: Case(
        Net(lambda m, x: torch.cat([m.bn(m.a(x)), m.b(x)], 1), a=conv(), b=conv(), bn=BN(4)),
        IMAGES,
        {'a.weight': INVARIANT, 'b.weight': 'no_norm'},
    ),
    'concatenation before a norm of each channel': lambda: Case(
        Net(lambda m, x: m.bn(torch.cat([m.a(x), x], 1)), a=conv(), bn=BN(7)), IMAGES, {'a.weight': INVARIANT}
    ),
    'two heads, one without a norm': lambda: Case(
        Net(lambda m, x: (lambda y: (m.bn(y), m.head(y)))(m.conv(x)), conv=conv(), bn=BN(4), head=conv(4, 2)),
        IMAGES,
        {'conv.weight': 'second_path', 'head.weight': 'no_norm'},
    ),
    'two heads behind a norm': lambda: Case(
        Net(
            lambda m, x: (lambda y: (m.a(y), m.b(y)))(m.bn(m.conv(x))),
            conv=conv(),
            bn=BN(4),
            a=conv(4, 2),
            b=conv(4, 2),
        ),
        IMAGES,
        {'conv.weight': INVARIANT, 'a.weight': 'no_norm', 'b.weight': 'no_norm'},
    ),
    'norm whose output is partly used': lambda: Case(
        Net(lambda m, x: m.bn(m.conv(x))[:, :2], conv=conv(), bn=BN(4)), IMAGES, {'conv.weight': INVARIANT}
    ),
    'last linear': lambda: Case(
        S(conv(), BN(4), nn.Flatten(), nn.Linear(256, 3)), IMAGES, {'0.weight': INVARIANT, '3.weight': 'no_norm'}
    ),
    'WN and FixNorm': lambda: Case(
        S(
            WNConv2d(3, 4, 3),
            nn.ReLU(),
            FixNormConv2d(4, 2, 3, alpha=0.1),
            nn.Flatten(),
            WNLinear(32, 3),
            FixNormLinear(3, 2, alpha=1.0),
        ),
        IMAGES,
        {'0.weight': INVARIANT, '2.weight': INVARIANT, '4.weight': INVARIANT, '5.weight': INVARIANT},
    ),
    'weight standardisation': lambda: Case(S(StandardisedConv2d(3, 4, 3)), IMAGES, {'0.weight': INVARIANT}),
    'torch weight_norm': lambda: Case(
        S(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))),
        VECTORS,
        {'0.parametrizations.weight.original0': 'no_norm', '0.parametrizations.weight.original1': INVARIANT},
    ),
    'shared, one use normed': lambda: Case(shared_once_normed(), IMAGES, {'a.weight': 'shared'}),
    'shared, both uses normed': lambda: Case(shared_both_normed(), IMAGES, {'a.weight': INVARIANT}),
    'linear-LN': lambda: Case(S(nn.Linear(8, 6, bias=False), nn.LayerNorm(6)), VECTORS, {'0.weight': INVARIANT}),
    'linear-bias-LN': lambda: Case(S(nn.Linear(8, 6), nn.LayerNorm(6)), VECTORS, {'0.weight': 'bias'}),
    'linear-functional LN': lambda: Case(
        Net(lambda m, x: F.layer_norm(m.fc(x), (6,)), fc=nn.Linear(8, 6, bias=False)), VECTORS, {'fc.weight': INVARIANT}
    ),
    'linear-BN1d': lambda: Case(S(nn.Linear(8, 6), nn.BatchNorm1d(6)), VECTORS, {'0.weight': INVARIANT}),
    'attention': lambda: Case(
        Attention(), TOKENS, {'attn.in_proj_weight': 'activation', 'attn.out_proj.weight': 'second_path'}
    ),
    'attention with normed q and k': lambda: Case(
        NormedAttention(),
        TOKENS,
        {'q.weight': 'bias', 'k.weight': 'bias', 'v.weight': 'no_norm', 'out.weight': 'no_norm'},
    ),
    'transformer MLP': lambda: Case(
        Net(lambda m, x: m.norm(x + m.b(F.gelu(m.a(x)))), a=nn.Linear(8, 16), b=nn.Linear(16, 8), norm=nn.LayerNorm(8)),
        TOKENS,
        {'a.weight': 'activation', 'b.weight': 'second_path'},
    ),
    'SE gate': lambda: Case(
        squeeze_excitation(),
        IMAGES,
        {'conv.weight': INVARIANT, 'fc1.weight': 'activation', 'fc2.weight': 'activation', 'last.weight': INVARIANT},
    ),
    'layer scale of 1e-6': lambda: Case(
        Net(
            lambda m, x: m.bn(x + m.scale(m.b(m.norm(m.a(x))))),
            a=conv(3, 3),
            norm=BN(3),
            b=conv(3, 3),
            scale=LayerScale(),
            bn=BN(3),
        ),
        IMAGES,
        {'a.weight': INVARIANT, 'b.weight': 'second_path'},
    ),
    'stochastic depth': lambda: Case(
        Net(lambda m, x: x + m.drop(m.bn(m.conv(x))), conv=conv(3, 3), bn=BN(3), drop=DropPath()),
        IMAGES,
        {'conv.weight': INVARIANT},
    ),
    'transposed convolution': lambda: Case(
        S(nn.ConvTranspose2d(3, 4, 2, stride=2), BN(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2)),
        IMAGES,
        {'0.weight': INVARIANT, '3.weight': 'no_norm'},
    ),
    'unused layer': lambda: Case(
        Net(lambda m, x: m.bn(m.conv(x)), conv=conv(), bn=BN(4), spare=conv()),
        IMAGES,
        {'conv.weight': INVARIANT, 'spare.weight': 'unused'},
    ),
    'behind a layer of zeros': lambda: Case(
        S(conv(), BN(4), nn.ReLU(), conv(4, 2, 1)).apply(
            lambda m: nn.init.zeros_(m.weight) if isinstance(m, nn.Conv2d) and m.out_channels == 2 else None
        ),
        IMAGES,
        {'0.weight': INVARIANT, '3.weight': 'no_norm'},
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_every_weight_is_told_right_with_its_cause(name):
    torch.manual_seed(1)
    net, inputs, truth = CASES[name]()
    report = audit(net, inputs)
    assert {record.name: record.cause for record in report.weights} == truth
    for record in report.weights:
        answers = (INVARIANT, 'unused') + (('frozen',) if record.cause == 'frozen' else ())
        assert record.scale_invariant is (record.cause in answers)
        assert record.reason
        assert bool(record.advice) is (record.cause not in (INVARIANT, 'frozen'))
        assert record.advice.startswith('if it is thawed later: ') is (bool(record.advice) and not record.trainable)
