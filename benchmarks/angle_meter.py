"""What measuring the angle per step costs: ratios, measured side by side in one run.

A training iteration of ResNet-50 with FixNorm and SGD (forward, backward and step on one random batch) is 1.00. Against
it, the same iteration with the meter of ``WeightNormLoggerHook`` installed:

1. between two measurements, when nothing is measured;
2. measured, with the copy of the weights and the wait for the result;
3. measured, with the cosine to the start as well (``start=True``);

and what this is on average with one measurement in ``interval`` iterations. The same for the step of the optimizer
alone. All iterations train one model with one optimizer: models that are built twice differ by some percent.

Rounds of all variants in turn, the median of the rounds' ratios with its quartiles; prints a table and, last,
one line of JSON. Run it on an otherwise idle machine::

    python benchmarks/angle_meter.py [--device cuda] [--batch 64] [--size 224] [--threads 2] [--rounds 30]
        [--interval 50] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.models import resnet50

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.norm_fixing import compare
from mmfixnorm.core import fix_norm, norm_fixing_parameters
from mmfixnorm.core.angles import StepMeter, joint_cosine

BASE, IDLE, MEASURED, WITH_COSINE = 'without', 'not measured', 'measured', 'measured, with cosine'


def variants(batch: int, size: int, device: str) -> dict[str, dict[str, Callable[[], object]]]:
    """The iterations and the steps that are compared, by name."""
    torch.manual_seed(0)
    model = resnet50().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    norm_fixer = fix_norm(optimizer, model=model)
    weights = [*norm_fixing_parameters(model).values()]
    start = [weight.detach().clone() for weight in weights]
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    meter = StepMeter()

    def iterate() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def without(run: Callable[[], object]) -> None:
        meter.remove()
        run()

    def idle(run: Callable[[], object]) -> None:
        meter.install(optimizer, [norm_fixer])
        run()

    def measured(run: Callable[[], object]) -> None:
        meter.install(optimizer, [norm_fixer])
        meter.arm(weights)
        run()
        assert meter.read() is not None

    def with_cosine(run: Callable[[], object]) -> None:
        measured(run)
        joint_cosine(weights, start).item()

    ways = {BASE: without, IDLE: idle, MEASURED: measured, WITH_COSINE: with_cosine}
    iterate()  # the steps need gradients
    runs: dict[str, Callable[[], object]] = {'step': optimizer.step, 'iteration': iterate}
    return {what: {name: partial(way, run) for name, way in ways.items()} for what, run in runs.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument('--interval', type=int, default=50)
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    result = dict(
        device=args.device,
        name=torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine(),
        torch=torch.__version__,
        **{key: getattr(args, key) for key in ('threads', 'batch', 'size', 'rounds', 'interval')},
    )
    for what, runs in variants(args.batch, args.size, args.device).items():
        rows = compare(runs, lambda name: [BASE], args.rounds, args.device)
        for name, row in rows.items():
            low, high = row['quartiles']
            print(
                f'{what:10} {name:24} {row["ratio"]:6.3f}  [{low:.3f}, {high:.3f}]  {row["median_ms"]:9.2f} ms',
                flush=True,
            )
        average = 1 + (rows[MEASURED]['ratio'] - 1) / args.interval
        print(f'{what:10} {f"on average of {args.interval}":24} {average:6.4f}')
        result[what] = dict(rows, average=average)
    line = json.dumps(result)
    print(line)
    if args.out:
        with open(args.out, 'a') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
