"""A whole training iteration of a FixNorm config against that of its weight-decay baseline, paired.

Both models and optim wrappers are built as a Runner builds them. An iteration is ``model.train_step``: preprocessing of
one random batch, forward, backward, optimizer step and, with FixNorm, the rescale. The hooks of the two configs are the
same ones and are not run. The learning rate is 1e-3 in both, so that random labels do no harm. In each round the
baseline runs first and last, and FixNorm twice in between, or the other way round in every other round, so that a
machine which becomes slower or faster does not decide.

Where a model lies in memory makes it some percent faster or slower than the same model built a second time, for the
life of the process. So the two are measured in several pairs of processes: which is built first in the one is built
last in the other. The ratio of a process is the median of its rounds, the ratio of a pair and that of all the geometric
mean, with a 95 % t-interval over the pairs. Beside each pair another measures the baseline against itself: what this
finds is not 1 by as much as the method is unsure.

Memory is the peak of a few iterations of one config, each in a process of its own: resident memory (VmHWM) on a CPU,
``torch.cuda.max_memory_allocated`` on a GPU; the median of the runs. Prints a table and, last, one line of JSON. Run it
on an otherwise idle machine::

    python benchmarks/train_iteration.py [--device cuda] [--batch 16] [--size 224] [--threads 2] [--pairs 6]
        [--rounds 4] [--memory-runs 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
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
from scipy import stats

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


def paired(other: str, options: dict[str, Any], warm_up: int, rounds: int, other_first: bool) -> dict[str, Any]:
    """Time of the baseline and of another config in turn; the ratio other / baseline of each round."""
    order = (1, 0) if other_first else (0, 1)
    runs = {place: trainer((BASELINE, other)[place], **options) for place in order}
    for _ in range(warm_up):
        for place in order:
            runs[place]()
    times: tuple[list[float], list[float]] = ([], [])
    for k in range(rounds):
        outer, inner = k % 2, 1 - k % 2
        taken = [0.0, 0.0]
        for place in (outer, inner, inner, outer):
            taken[place] += seconds(runs[place], options['device']) / 2
        for place in order:
            times[place].append(taken[place])
    ratios = [ours / theirs for theirs, ours in zip(*times, strict=True)]
    return dict(ratios=ratios, median_ms=[1e3 * statistics.median(values) for values in times])


def over_processes(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric mean of the pairs of processes and its 95 % interval by Student's t."""
    logs = [math.log(statistics.median(one['ratios'])) for one in found]
    pairs = [statistics.fmean(pair) for pair in zip(logs[::2], logs[1::2], strict=True)]
    mean = statistics.fmean(pairs)
    half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return dict(
        ratio=math.exp(mean),
        interval_95=[math.exp(mean - half), math.exp(mean + half)],
        processes=[round(math.exp(value), 4) for value in logs],
        median_ms=[statistics.median(one['median_ms'][place] for one in found) for place in (0, 1)],
    )


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a new process that ends with it."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(function, args)


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
            values.append(in_own_process(peak_mb, name, options))
    medians = {name: statistics.median(values) for name, values in found.items()}
    measure = 'max_memory_allocated' if options['device'] == 'cuda' else 'VmHWM'
    return dict(measure=measure, mb=found, ratio=medians[FIXNORM] / medians[BASELINE])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--size', type=int, default=224, help='height and width of the images')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--warm-up', type=int, default=2, help='iterations of each that are not counted')
    parser.add_argument('--pairs', type=int, default=6, help='of processes, and as many of the baseline with itself')
    parser.add_argument('--rounds', type=int, default=4, help='of four iterations, in each process')
    parser.add_argument('--memory-runs', type=int, default=3, help='processes for each config')
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    options = dict(batch=args.batch, size=args.size, device=args.device, threads=args.threads)

    found: dict[str, list[dict[str, Any]]] = {FIXNORM: [], BASELINE: []}
    for k in range(2 * args.pairs):
        for other, results in found.items():
            results.append(in_own_process(paired, other, options, args.warm_up, args.rounds, k % 2 == 1))
    iteration, control = map(over_processes, found.values())
    for name, result in (('time', iteration), ('control', control)):
        print('{:8}{:.4f}  [{:.4f}, {:.4f}]'.format(name, result['ratio'], *result['interval_95']), flush=True)
    peak = memory(options, args.memory_runs)
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
            control=control,
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
