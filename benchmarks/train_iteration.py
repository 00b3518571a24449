"""A whole training iteration of a FixNorm config against that of its weight-decay baseline, paired in one process.

Both models and optim wrappers are built as a Runner builds them. An iteration is ``model.train_step``: preprocessing of
one random batch, forward, backward, optimizer step and, with FixNorm, the rescale. The hooks of the two configs are the
same ones and are not run. The learning rate is 1e-3 in both, so that random labels do no harm. In each round the
baseline runs first and last, and FixNorm twice in between, or the other way round in every other round, so that a
machine which becomes slower or faster does not decide. The ratio is the median of the rounds' ratios, with a 95 %
bootstrap interval.

Memory is the peak of a few iterations of one config, each in a process of its own: resident memory (VmHWM) on a CPU,
``torch.cuda.max_memory_allocated`` on a GPU; the median of the runs. Prints a table and, last, one line of JSON. Run it
on an otherwise idle machine::

    python benchmarks/train_iteration.py [--device cuda] [--batch 16] [--size 224] [--threads 2] [--rounds 30]
        [--memory-runs 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper

from mmfixnorm.cls.generated_batch import generate_batch
from mmfixnorm.config import load_config
from mmfixnorm.config_audit import prepared_model

CONFIGS = Path(__file__).resolve().parents[1] / 'configs/imagenet'
BASELINE, FIXNORM = 'resnet50_wd_16xb64-100e_imagenet.py', 'resnet50_fixnorm_16xb64-100e_imagenet.py'
LR = 1e-3


def trainer(config: str, *, batch: int, size: int, device: str, threads: int) -> Callable[[], Any]:
    """One training iteration of a config on a random batch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    cfg = load_config(str(CONFIGS / config))
    cfg.optim_wrapper.optimizer.lr = LR
    model: Any = prepared_model(cfg).to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optim_wrapper.initialize_count_status(model, 0, 10**9)
    data = generate_batch(model, images=batch, size=(size, size), dtype=torch.float32, seed=0)
    return lambda: model.train_step(data, optim_wrapper)


def seconds(run: Callable[[], Any], device: str) -> float:
    """Wall time of one call, with the device's queue empty before and after."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(options: dict[str, Any], warm_up: int, rounds: int) -> dict[str, Any]:
    """Time of both configs in turn, and the ratio FixNorm / weight decay."""
    runs = {name: trainer(name, **options) for name in (BASELINE, FIXNORM)}
    for _ in range(warm_up):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(rounds):
        outer, inner = (BASELINE, FIXNORM) if k % 2 == 0 else (FIXNORM, BASELINE)
        taken = dict.fromkeys(runs, 0.0)
        for name in (outer, inner, inner, outer):
            taken[name] += seconds(runs[name], options['device']) / 2
        for name, value in taken.items():
            times[name].append(value)
    ratios = [ours / theirs for ours, theirs in zip(times[FIXNORM], times[BASELINE], strict=True)]
    return dict(
        ratio=statistics.median(ratios),
        interval_95=median_interval(ratios),
        quartiles=statistics.quantiles(ratios, n=4)[::2],
        median_ms={name: 1e3 * statistics.median(values) for name, values in times.items()},
    )


def median_interval(values: Sequence[float], draws: int = 10_000) -> list[float]:
    """95 % bootstrap interval of the median."""
    sample = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    medians = sample[picks].quantile(0.5, dim=1)  # of an even number: the middle of two, as statistics.median
    return medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def peak_mb(config: str, options: dict[str, Any], iterations: int = 4) -> float:
    """Peak memory of a process that does nothing else."""
    run = trainer(config, **options)
    if options['device'] == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    for _ in range(iterations):
        run()
    return torch.cuda.max_memory_allocated() / 2**20 if options['device'] == 'cuda' else peak_rss_mb()


def peak_rss_mb() -> float:
    """The largest resident memory that this process ever had."""
    # Not resource.getrusage: its value is never below that of the parent process at the start.
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) / 1024


def memory(options: dict[str, Any], runs: int) -> dict[str, Any]:
    """Peak memory of both configs, each run in a process of its own."""
    found: dict[str, list[float]] = {BASELINE: [], FIXNORM: []}
    for _ in range(runs):
        for name, values in found.items():
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                values.append(pool.apply(peak_mb, (name, options)))
    medians = {name: statistics.median(values) for name, values in found.items()}
    measure = 'max_memory_allocated' if options['device'] == 'cuda' else 'VmHWM'
    return dict(measure=measure, mb=found, ratio=medians[FIXNORM] / medians[BASELINE])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--size', type=int, default=224, help='height and width of the images')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--warm-up', type=int, default=3, help='iterations of each that are not counted')
    parser.add_argument('--rounds', type=int, default=30, help='of four iterations')
    parser.add_argument('--memory-runs', type=int, default=3, help='processes for each config')
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    options = dict(batch=args.batch, size=args.size, device=args.device, threads=args.threads)

    peak = memory(options, args.memory_runs)
    torch.set_num_threads(args.threads)
    iteration = paired(options, args.warm_up, args.rounds)
    low, high = iteration['interval_95']
    print(f'time    {iteration["ratio"]:.4f}  [{low:.4f}, {high:.4f}]')
    print(f'memory  {peak["ratio"]:.4f}  ({peak["measure"]})')
    name = torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine()
    line = json.dumps(
        dict(
            baseline=BASELINE,
            fixnorm=FIXNORM,
            **options,
            name=name,
            torch=torch.__version__,
            warm_up=args.warm_up,
            rounds=args.rounds,
            iteration=iteration,
            memory=peak,
        )
    )
    print(line)
    if args.out:
        with open(args.out, 'a') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
