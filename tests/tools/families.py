"""Models of many families with the weights of a training's end, and all their raw outputs."""

import importlib.util
import math
from pathlib import Path

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfixnorm.core import WeightNormalized
from mmfixnorm.launch import build_model, load_config

ROOT = Path(__file__).resolve().parents[2]


def config_file(name: str) -> Path:
    """``toolbox/path`` is a config that a toolbox installs, any other one is of this package."""
    toolbox, _, path = name.partition('/')
    if not toolbox.startswith('mm'):
        return ROOT / 'configs' / f'{name}.py'
    spec = importlib.util.find_spec(toolbox)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / '.mim/configs' / f'{path}.py'


def write_child(stock: str, change: dict, filename: Path) -> Path:
    """Write the config of this name with changes to its model, and what registers our layers and heads."""
    cfg = load_config(config_file(stock))
    parts = [f'mmfixnorm.{part}' for part in ('cls', 'det', 'seg')]
    cfg.merge_from_dict(dict(custom_imports=dict(imports=parts), model=change))
    cfg.dump(filename)
    return filename


def images(num: int = 2, size: int = 64, seed: int = 1) -> Tensor:
    """Patches of 16 x 16 pixels: noise alone would average out, and BN blow up the rounding errors of what is left."""
    patches = torch.randn(num, 3, size // 16, size // 16, generator=torch.Generator().manual_seed(seed))
    return patches.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)


def trained_model(config: str | Path, batch: Tensor) -> nn.Module:
    """BN has the statistics of the batch; scales have left ``||W||``, and those with a bound are above it."""
    model = revert_sync_batchnorm(build_model(load_config(config))).train()
    for module in model.modules():
        if isinstance(module, WeightNormalized):
            bound = module.scale_bound
            module.set_scale_(1.5 * module.weight.norm().item() if math.isinf(bound) else 2 * bound)
        elif isinstance(module, _BatchNorm):
            module.train().momentum = 1.0  # also where norm_eval stopped it
    outputs(model, batch)
    return model.eval()


@torch.no_grad()
def outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """The raw outputs of ``mode='tensor'``, flat."""
    return _flat(model(batch, mode='tensor'))


@torch.no_grad()
def auxiliary_outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Those of the heads that a segmentor has for training only."""
    return _flat(model.auxiliary_head(model.extract_feat(batch))) if hasattr(model, 'auxiliary_head') else []


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference in units of the largest value of its tensor."""
    assert [t.shape for t in found] == [t.shape for t in expected]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected))


def _flat(node) -> list[Tensor]:
    return [node] if isinstance(node, Tensor) else [tensor for child in node for tensor in _flat(child)]
