"""Detectors with BN on stored statistics, converted to FixNorm: the same outputs, the norm held, and folded back.

A plain config is converted by ``mmfixnorm.convert``. The plain model gets the BN statistics of a net in training: those
of its own activations, changed at random, and random weights and biases of BN, where the initialisation has 0 and 1.
Its state is loaded into the child, which is audited, trained for 20 steps on generated batches, and folded into the
plain model. Outputs are those of neck and heads in evaluation mode, the boxes of a second stage on fixed regions. One
JSON line per config goes to ``--out``; ``found`` in it are: ``loaded``, the distance of the child's outputs from the
plain model's, and ``loaded_training``, the same in training mode; ``failing`` of ``in_set`` weights of the set that
the audit finds not to be scale-invariant, with the loaded weights; ``held``, layers whose scale is held; ``drift``, the
largest relative change of the norm of the set; ``held_drift``, of a held scale; ``bn_drift``, of a statistic of BN;
``moved``, how far 20 steps moved the outputs; ``folded``, the distance of the outputs of the plain model with the
folded state from the child's. Distances are in units of the largest value of a tensor, the largest over all tensors,
in float32::

    python benchmarks/frozen_bn.py [NAME ...] [--size 64] [--threads 2] [--out FILE]

NAME is a config as ``mmdet/retinanet/retinanet_r50_fpn_1x_coco`` that its package installs, or a file.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import math
import platform
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmfixnorm.config import PARTS, load_config
from mmfixnorm.convert import convert
from mmfixnorm.convert.audit import audit_model, prepared_model
from mmfixnorm.core.layer_kinds import is_batch_norm
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.membership import flagged
from mmfixnorm.fold import fold_checkpoint

STEPS = 20
STOCK = ('mmdet/retinanet/retinanet_r50_fpn_1x_coco', 'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')


def config_file(name: str) -> Path:
    """The file of ``'toolbox/folder/config'``, as its package installs it, or the file itself."""
    if name.endswith('.py'):
        return Path(name)
    toolbox, _, path = name.partition('/')
    spec = importlib.util.find_spec(toolbox)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'{name}: {toolbox} is not installed')
    return Path(spec.origin).parent / '.mim/configs' / f'{path}.py'


def images(size: int) -> Tensor:
    """Two images in patches of 8 pixels: noise alone would average out."""
    patches = torch.randn(2, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    return patches.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


@torch.no_grad()
def give_statistics(model: Any, batch: Tensor) -> None:
    """Let every BN have the statistics of its activations, changed at random, and random weights and biases."""
    norms = [module for module in model.modules() if is_batch_norm(module)]
    generator = torch.Generator().manual_seed(2)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight.copy_(draw(norm.weight, 0.3, 1.5))
        norm.bias.copy_(draw(norm.bias, -0.5, 0.5))
        norm.train().momentum = 1.0
    model.extract_feat(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
        norm.running_mean += norm.running_var.sqrt() * draw(norm.running_mean, -0.5, 0.5)
        norm.running_var *= draw(norm.running_var, 0.5, 2.0)


@torch.no_grad()
def outputs(model: Any, batch: Tensor, *, training: bool = False) -> list[Tensor]:
    """Those of neck and heads, flat; of a second stage those on fixed regions."""
    model.train(training)
    features = model.extract_feat(batch)
    if not hasattr(model, 'roi_head'):
        return _flat([features, model.bbox_head(features)])
    width = batch.shape[-1]
    corners = torch.rand(8, 2, generator=torch.Generator().manual_seed(3)) * width / 2
    regions = torch.cat([torch.arange(8).remainder(2)[:, None].float(), corners, corners + width / 3], dim=1)
    found = model.roi_head._bbox_forward(features, regions)
    return _flat([features, model.rpn_head(features), found['cls_score'], found['bbox_pred']])


def _flat(node: Any) -> list[Tensor]:
    return [node] if isinstance(node, Tensor) else [tensor for child in node for tensor in _flat(child)]


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference in units of the largest value of its tensor."""
    pairs = zip(found, expected, strict=True)
    return max(((a.double() - b.double()).abs().max() / b.double().abs().max()).item() for a, b in pairs)


def joint_norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(t.detach().double().square().sum().item() for t in tensors))


def train(model: Any, cfg: Config, size: int) -> list[float]:
    """Train a model for some steps on generated batches; return the norm of its set before and after each."""
    toolbox = importlib.import_module(f'{PARTS[cfg.default_scope]}.generated_batch')
    model.train()
    cfg.optim_wrapper.optimizer.lr *= 0.1  # where a warm-up would be
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optim_wrapper.initialize_count_status(model, 0, STEPS)
    norms: list[float] = []
    for step in range(STEPS):
        batch = toolbox.generate_batch(model, images=toolbox.IMAGES, size=(size, size), dtype=torch.float32, seed=step)
        norms += [] if norms else [joint_norm(flagged(optim_wrapper.optimizer))]
        loss = model.train_step(batch, optim_wrapper)['loss']
        if not torch.isfinite(loss):
            raise FloatingPointError(f'the loss is {loss.item()} at step {step}')
        norms.append(joint_norm(flagged(optim_wrapper.optimizer)))
    return norms


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if name.endswith(('running_mean', 'running_var'))}


def drift(now: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    return max(((now[name] - value).abs().max() / value.abs().max()).item() for name, value in before.items())


def measure(filename: str, size: int) -> dict[str, Any]:
    """Convert one config and compare the child with the plain model: before, during and after a training."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        out = f'{folder}/new.py'
        done = convert(filename, out, size=size)
        cfg = load_config(out)
        plain, child = prepared_model(load_config(filename)), prepared_model(cfg)
        batch = images(size)
        give_statistics(plain, batch)
        child.load_state_dict(plain.state_dict())
        expected = outputs(plain, batch)
        loaded = distance(outputs(child, batch), expected)
        in_training = [outputs(model, batch, training=True) for model in (child, plain)]
        audited = audit_model(child, cfg, size=size, explain=False)
        held = {
            n: m.g.clone() for n, m in child.named_modules() if isinstance(m, WeightNormalized) and not m.train_scale
        }
        before = statistics(child)
        norms = train(child, cfg, size)
        trained = outputs(child, batch)
        torch.save(dict(state_dict=child.state_dict()), f'{folder}/trained.pth')
        nn.Module.load_state_dict(plain, fold_checkpoint(cfg, f'{folder}/trained.pth')['state_dict'], strict=True)
    scales = {n: m.g for n, m in child.named_modules() if n in held and isinstance(m, WeightNormalized)}
    return dict(
        loaded=loaded,
        loaded_training=distance(*in_training),
        in_set=len(done.in_set),
        failing=len(audited.failing),
        left_out=len(done.left_out),
        held=len(held),
        drift=max(abs(norm / norms[0] - 1) for norm in norms),
        held_drift=drift(scales, held),
        bn_drift=drift(statistics(child), before),
        moved=distance(trained, expected),
        folded=distance(outputs(plain, batch), trained),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', default=list(STOCK))
    parser.add_argument('--size', type=int, default=64, help='height and width of the images (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--out', type=Path, help='file to append the JSON lines to')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    for name in args.names:
        found = measure(str(config_file(name)), args.size)
        versions = {package: importlib.import_module(package).__version__ for package in ('torch', 'mmdet')}
        machine = f'{platform.system()} {platform.machine()}, {args.threads} thread{"s" * (args.threads > 1)}'
        line = json.dumps(dict(config=name, px=args.size, found=found, versions=versions, machine=machine))
        print(line, flush=True)
        if args.out:
            with open(args.out, 'a') as file:
                file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
