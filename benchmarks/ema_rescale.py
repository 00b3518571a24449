"""What the rescale of FixNormEMAHook does: the norm and the accuracy of averaged weights with and without it.

Trains ResNet-8 on the digits (`python tools/dataset_converters/digits.py --out data/digits` writes them) once for each
momentum and seed, with two averages of the same weights; prints a line for each and, last, one line of JSON::

    python benchmarks/ema_rescale.py [--epochs 5] [--momenta 0.0002 0.01 0.1] [--seeds 0 1 2] [--lr 0.4] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norms import global_norm
from mmfixnorm.engine import FixNormEMAHook
from mmfixnorm.launch import load_config

CONFIG = 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'


class MeasureHook(Hook):
    """After training: the average as it is, and as FixNormEMAHook shows it."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.result: dict[str, float] = {}

    def after_train(self, runner: Runner) -> None:
        (ema,) = [hook for hook in runner.hooks if isinstance(hook, FixNormEMAHook)]
        target = runner.optim_wrapper.norm_fixer.target
        self.result['weights'] = accuracy(runner)
        ema._swap_ema_parameters()
        self.result['average'] = accuracy(runner)
        self.result['norm_ratio'] = global_norm(flagged(runner.optim_wrapper.optimizer)).item() / target
        ema._rescale(runner)
        self.result['rescaled'] = accuracy(runner)
        ema._restore(runner)
        ema._swap_ema_parameters()


def accuracy(runner: Runner) -> float:
    """Top-1 on the validation set of the weights that the model has now."""
    runner.model.eval()
    for batch in runner.val_dataloader:
        samples = runner.model.val_step(batch)
        runner.val_evaluator.process(data_samples=samples, data_batch=batch)
    runner.model.train()
    return runner.val_evaluator.evaluate(len(runner.val_dataloader.dataset))['accuracy/top1']


def run(momentum: float, seed: int, lr: float, epochs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as work_dir:
        cfg = load_config(
            CONFIG,
            cfg_options={
                'work_dir': work_dir,
                'optim_wrapper.optimizer.lr': lr,
                'train_cfg.max_epochs': epochs,
                'train_cfg.val_interval': epochs + 1,
                'randomness.seed': seed,
                'log_level': 'WARNING',
                'custom_hooks': [dict(type='FixNormEMAHook', momentum=momentum)],
                'experiment_name': f'ema_{momentum}_{seed}',
            },
        )
        runner = Runner.from_cfg(cfg)
        runner.build_val_loop(cfg.val_cfg)
        measure = MeasureHook()
        runner.register_hook(measure)
        runner.train()
    return measure.result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--momenta', type=float, nargs='+', default=[0.0002, 0.01, 0.1])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--lr', type=float, default=0.4)
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    rows = []
    for momentum in args.momenta:
        for seed in args.seeds:
            row = dict(momentum=momentum, seed=seed, **run(momentum, seed, args.lr, args.epochs))
            rows.append(row)
            print(
                f'momentum {momentum:<7g} seed {seed}: norm of the average / target {row["norm_ratio"]:.3f}; top-1 of '
                f'the weights {row["weights"]:.2f}, of the average {row["average"]:.2f}, rescaled {row["rescaled"]:.2f}'
            )
    line = json.dumps(dict(lr=args.lr, epochs=args.epochs, rows=rows))
    print(line)
    if args.out:
        with open(args.out, 'a') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
