"""The model of reference.py as this project builds it, in float64, and its data."""

import torch
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn import functional as F

import mmfixnorm.engine  # noqa: F401
from mmfixnorm.core import FixNormLinear

ALPHA = 0.6
SGD = dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True)
WRAPPER = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor', optimizer=SGD)


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, bias=False),
            nn.BatchNorm2d(6),
        )
        self.head = FixNormLinear(6, 3, alpha=ALPHA)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.head(self.backbone(inputs).mean((2, 3)))
        return dict(loss=F.cross_entropy(logits, labels)) if mode == 'loss' else logits


def net(seed=0):
    torch.manual_seed(seed)
    model = Net().double()
    model.head.reset_scale()  # in float64 as well
    return model


def start_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def batches(steps=6, size=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 1, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(steps)
    ]


def wrap(model, optimizer=SGD, type='FixNormOptimWrapper', **kwargs):
    return build_optim_wrapper(model, WRAPPER | dict(type=type, optimizer=optimizer, **kwargs))


def data_of(batch):
    return dict(inputs=batch[0], labels=batch[1])
