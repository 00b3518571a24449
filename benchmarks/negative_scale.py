"""The bound of FixNorm where the scale `g` of the classifier crosses 0: a stock ResNet-18 without a warm-up.

Trains mmpretrain's ``resnet18_8xb16_cifar10`` (CIFAR stem, SGD with momentum, lr 0.1, batches of 16, no warm-up), as it
is but for the head, the optim wrapper and the images, which are read from the folder that
``tools/dataset_converters/cifar10.py`` writes. First with alpha 0.5, then with two alphas whose bounds are a third and
two thirds of the way from the first ``g`` to the largest ``|g|`` of that training. Reads ``g`` and the bounded scale at
the start and after each step. Prints one JSON line per training and, last, one with what is claimed::

    python benchmarks/negative_scale.py --data data/cifar10 [--epochs 2] [--images 500] [--seed 0] [--out FILE]

``g``: at the start and after each epoch. ``beyond``: steps whose bounded scale is larger than the bound. The exit
status is 1 unless every scale is within its bound and the two trainings differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).parents[1]))
import mmfixnorm.cls  # noqa: F401
from benchmarks.convert_stock import stock_config
from mmfixnorm.config import load_config

STOCK = 'mmpretrain/resnet/resnet18_8xb16_cifar10'
CHILD = """
_base_ = [{stock!r}]
custom_imports = dict(imports=['mmfixnorm.cls'], allow_failed_imports=False)
model = dict(head=dict(type='FixNormLinearClsHead', alpha={alpha}))
data_preprocessor = dict(to_rgb=True)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
train_cfg = dict(max_epochs={epochs})
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='SubsetCustomDataset',
        data_root={data!r},
        subset={images},
    ),
)
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
default_hooks = dict(checkpoint=None, logger=dict(interval=100))
randomness = dict(seed={seed}, deterministic=True)
"""


class ScaleHook(Hook):
    """Note the scale of the classifier and the loss."""

    def __init__(self) -> None:
        self.g: list[float] = []
        self.bounded: list[float] = []
        self.losses: list[float] = []

    def _note(self, runner: Runner) -> None:
        self.g.append(runner.model.head.fc.g.item())
        self.bounded.append(runner.model.head.fc.bounded_scale().item())

    def before_train(self, runner: Runner) -> None:
        self._note(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        self._note(runner)
        assert outputs is not None  # a Runner gives them
        self.losses.append(outputs['loss'].item())


def train(alpha: float, args: argparse.Namespace) -> dict[str, Any]:
    """Train once; return the scales, the losses and the weights at the end."""
    with tempfile.TemporaryDirectory() as folder:
        child = Path(folder, f'alpha_{alpha:.6f}.py')
        data = str(Path(args.data, 'train').absolute())
        child.write_text(
            CHILD.format(
                stock=str(stock_config(STOCK)),
                alpha=alpha,
                epochs=args.epochs,
                data=data,
                images=args.images,
                seed=args.seed,
            )
        )
        cfg = load_config(child, cfg_options={'work_dir': folder})
        cfg.experiment_name = child.stem
        cfg.train_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), *cfg.train_pipeline]
        runner = Runner.from_cfg(cfg)
        hook = ScaleHook()
        runner.register_hook(hook)
        runner.train()
    weights = torch.cat([p.detach().flatten().double() for p in runner.model.parameters()])
    bound = alpha * math.sqrt(10)
    per_epoch = len(hook.losses) // args.epochs
    return {
        'row': {
            'alpha': round(alpha, 4),
            'bound': round(bound, 4),
            'steps': len(hook.losses),
            'g': [round(hook.g[i * per_epoch], 4) for i in range(args.epochs + 1)],
            'largest_g': round(max(map(abs, hook.g)), 4),
            'steps_below_0': sum(g < 0 for g in hook.g),
            'largest_bounded_scale': round(max(map(abs, hook.bounded)), 4),
            'steps_at_the_bound': sum(abs(g) > bound for g in hook.g),
            'beyond': sum(abs(s) > bound * (1 + 1e-6) for s in hook.bounded),
            'last_loss': round(sum(hook.losses[-50:]) / len(hook.losses[-50:]), 4),
        },
        'first_g': hook.g[0],
        'largest_g': max(map(abs, hook.g)),
        'losses': hook.losses,
        'weights': weights,
    }


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Say from which step on two trainings differ, and by how much at the end."""
    differing = [
        i for i, pair in enumerate(zip(first['losses'], second['losses'], strict=True), 1) if pair[0] != pair[1]
    ]
    apart = (first['weights'] - second['weights']).norm() / first['weights'].norm()
    return {'first_step_apart': differing[0] if differing else None, 'weights_apart': round(float(apart), 4)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default='data/cifar10')
    parser.add_argument('--epochs', type=int, default=2)
    parser.add_argument('--images', type=int, default=500, help='of each class')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', help='file to append the JSON lines to')
    args = parser.parse_args(argv)

    def show(row: Mapping[str, Any]) -> None:
        line = json.dumps(row)
        print(line, flush=True)
        if args.out:
            with open(args.out, 'a', encoding='utf-8') as file:
                file.write(line + '\n')

    runs = [train(0.5, args)]
    show(runs[0]['row'])
    first, largest = runs[0]['first_g'], runs[0]['largest_g']
    if not largest > first:
        raise RuntimeError(f'|g| never exceeds its first value, {first:.4f}: no bound above it has an effect')
    for part in (1 / 3, 2 / 3):
        runs.append(train((first + part * (largest - first)) / math.sqrt(10), args))
        show(runs[-1]['row'])
    within = all(run['row']['beyond'] == 0 for run in runs)
    apart = compare(*runs[-2:])
    show({'seed': args.seed, 'every_scale_within_its_bound': within, **apart})
    return 0 if within and apart['first_step_apart'] else 1


if __name__ == '__main__':
    sys.exit(main())
