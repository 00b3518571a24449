"""What the tests of the configs share."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfixnorm.core import fill_scales
from mmfixnorm.core.membership import flagged


@pytest.fixture(scope='session')
def load() -> Callable[[Path], Config]:
    """Reads a config and enters its scope, so that its parts can be built."""

    def load_(path: Path) -> Config:
        cfg = Config.fromfile(path)
        init_default_scope(cfg.default_scope)
        return cfg

    return load_


@pytest.fixture(scope='session')
def flat() -> Callable[..., dict[str, Any]]:
    """Dotted keys of a resolved config."""

    def flat_(value: Any, prefix: str = '') -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {k: v for key in value for k, v in flat_(value[key], f'{prefix}.{key}'.strip('.')).items()}

    return flat_


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder with real images."""
    if 'MMFIXNORM_DATA' not in os.environ:
        pytest.skip('MMFIXNORM_DATA is not set')
    return Path(os.environ['MMFIXNORM_DATA'])


@pytest.fixture(scope='session')
def alive() -> Callable[[nn.Module], nn.Module]:
    """Puts a model into training mode and float64, with weights for which each layer has an effect."""

    def alive_(model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, std=0.1)
                module.eps = 1e-12  # the only part of a BN that sees a scale
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        fill_scales(model)
        model.double().train()
        return model

    return alive_


def joint_norm_(tensors: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(t.detach().double().square().sum().item() for t in tensors))


@pytest.fixture(scope='session')
def joint_norm() -> Callable[[Sequence[torch.Tensor]], float]:
    """The norm of tensors taken as one vector, summed in float64."""
    return joint_norm_


class Start(NamedTuple):
    """What a model was when its first optimizer step began."""

    weights: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor | None]
    norm: float


@pytest.fixture(scope='session')
def train_one_step() -> Callable[[Runner], Start]:
    """Runs a training of one step and tells what its optimizer found."""

    def train(runner: Runner) -> Start:
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        optimizer, found = runner.optim_wrapper.optimizer, []

        def look(*_: Any) -> None:
            params = dict(runner.model.named_parameters())
            weights = {name: p.detach().clone() for name, p in params.items()}
            gradients = {name: p.grad if p.grad is None else p.grad.clone() for name, p in params.items()}
            in_set = flagged(optimizer)
            found.append(Start(weights, gradients, joint_norm_(in_set)))

        optimizer.register_step_pre_hook(look)
        runner.train()
        (start,) = found
        return start

    return train
