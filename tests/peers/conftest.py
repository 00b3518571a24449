"""The toy of the engine's tests, and a network in float64 whose convolutions are scale-invariant."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mmfixnorm.peers  # noqa: F401  (registers them, whichever file of this folder runs alone)

_spec = importlib.util.spec_from_file_location('engine_toy', Path(__file__).parents[1] / 'engine' / 'conftest.py')
_toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_toy)

toy_classifier = _toy.toy_classifier
toy_data = _toy.toy_data
toy_runner = _toy.toy_runner


class Float64Classifier(_toy.ToyClassifier):
    """The toy in float64, with a plain classifier and without the eps of batch norm."""

    def __init__(self):
        super().__init__(fc=nn.Linear(6, 3))
        self.backbone[1].eps = self.backbone[4].eps = 1e-30
        self.double()

    def forward(self, inputs, *args, **kwargs):
        return super().forward([x.double() for x in inputs], *args, **kwargs)


class Net(nn.Sequential):
    """Two convolutions and a classifier; ``loss(seed)`` is that of a batch made from the seed."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4, eps=1e-30),  # eps does not scale with the variance
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, bias=False),
            nn.BatchNorm2d(6, eps=1e-30),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
        self.double()

    def loss(self, seed):
        x, y = batch(seed)
        return F.cross_entropy(self(x), y)

    def convs(self):
        return [self[0].weight, self[3].weight]


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (8,), generator=generator)


@pytest.fixture
def float64_classifier():
    def make():
        torch.manual_seed(0)
        return Float64Classifier()

    return make


@pytest.fixture
def net():
    """Makes the same network each time."""

    def make():
        torch.manual_seed(0)
        return Net()

    return make


@pytest.fixture
def logits():
    """What a network says about a batch that no training has seen."""

    def logits_(model):
        with torch.no_grad():
            return model(batch(999)[0])

    return logits_


@pytest.fixture
def sgd_with_decay():
    """SGD that decays the convolutions by ``weight_decay``, the classifier by ``lambda_fc``, and nothing else."""

    def make(model, weight_decay, lambda_fc=0.0, **kwargs):
        convs, fc = model.convs(), model[7].weight
        rest = [p for p in model.parameters() if all(p is not q for q in [*convs, fc])]
        groups = [
            {'params': convs, 'weight_decay': weight_decay},
            {'params': [fc], 'weight_decay': lambda_fc},
            {'params': rest, 'weight_decay': 0.0},
        ]
        return torch.optim.SGD(groups, **kwargs)

    return make


@pytest.fixture
def cut_and_resumed(toy_runner):
    """Trains two epochs at once, and one epoch twice with a resume between; returns both last checkpoints."""

    def train(**kwargs):
        straight = toy_runner('straight', **kwargs)
        straight.train()
        half = toy_runner('half', **kwargs)
        half.train_loop._max_epochs = 1  # as if it were killed after an epoch, under the same schedule
        half.train()
        again = toy_runner('again', load_from=f'{half.work_dir}/epoch_1.pth', resume=True, **kwargs)
        again.train()
        return [torch.load(f'{r.work_dir}/epoch_2.pth', weights_only=False) for r in (straight, again)]

    return train
