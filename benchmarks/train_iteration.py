"""A whole training iteration of a FixNorm config (``--config``) against that of its weight-decay baseline, paired.

Both models and optim wrappers are built as a Runner builds them. An iteration is ``model.train_step``: preprocessing of
one random batch, forward, backward, optimizer step and, with FixNorm, the rescale. The hooks of the two configs are the
same ones and are not run. The learning rate is 1e-3 in both, so that random labels do no harm. In each round the
baseline runs first and last, and FixNorm twice in between, or the other way round in every other round, so that a
machine which becomes slower or faster does not decide.

Where a model lies in memory makes it some percent faster or slower than the same model built a second time, for the
life of the process: more than what is looked for. So the two models of a process share their backbone, the part that
the two configs have in common, and each trains it in its turn with an optimizer of its own. The ratio of a process is
the median of its rounds. Processes come in pairs: which config is built first in the one is built last in the other.
The ratio of a pair and that of all is the geometric mean, with a 95 % t-interval over the pairs. Beside each pair
another measures the baseline against itself: what this finds is not 1 by as much as the method is unsure.

What differs between the configs is also timed by itself, in turn and in one process: the optimizer step, with the
rescale in FixNorm's, and forward and backward of the head. The ratio *by parts* is 1 plus the sum of these differences
over the baseline's iteration.

Memory is what an iteration needs at its peak: on a GPU ``torch.cuda.max_memory_allocated``; on a CPU the tensors that
stay plus the peak of the allocations that torch's profiler counts. Not the resident memory, which differs by 5 % from
run to run of one config. Prints a table and, last, one line of JSON. Run it on an otherwise idle machine::

    python benchmarks/train_iteration.py [--config NAME] [--device cuda] [--batch 16] [--size 224] [--threads 2]
        [--pairs 6] [--rounds 4] [--out FILE]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from scipy import stats

from mmfixnorm.cls.generated_batch import generate_batch
from mmfixnorm.config import load_config
from mmfixnorm.convert.audit import prepared_model

CONFIGS = Path(__file__).resolve().parents[1] / 'configs/imagenet'
BASELINE, FIXNORM = 'resnet50_wd_16xb64-100e_imagenet.py', 'resnet50_fixnorm_16xb64-100e_imagenet.py'
LR = 1e-3


@dataclass(frozen=True)
class Trainer:
    """A training iteration, to be called."""

    model: Any
    data: dict[str, Any]
    optim_wrapper: Any

    def __call__(self) -> None:
        self.model.train_step(self.data, self.optim_wrapper)


def trainers(configs: Sequence[str], *, batch: int, size: int, device: str, threads: int) -> list[Trainer]:
    """One training iteration of each config on a random batch; their models share one backbone."""
    torch.set_num_threads(threads)
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    backbone = None
    runs = []
    for config in configs:
        torch.manual_seed(0)
        cfg = load_config(str(CONFIGS / config))
        cfg.optim_wrapper.optimizer.lr = LR
        model: Any = prepared_model(cfg).to(device).train()
        model.backbone = backbone = backbone or model.backbone
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        optim_wrapper.initialize_count_status(model, 0, 10**9)
        data = generate_batch(model, images=batch, size=(size, size), dtype=torch.float32, seed=0)
        runs.append(Trainer(model, data, optim_wrapper))
    return runs


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
    runs = dict(zip(order, trainers([(BASELINE, other)[place] for place in order], **options), strict=True))
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


def differing_parts(other: str, options: dict[str, Any], rounds: int = 40) -> dict[str, list[float]]:
    """Median milliseconds of the optimizer step and of the head, of both configs."""
    runs = trainers([BASELINE, other], **options)
    for run in runs:
        run()
    features = torch.randn(options['batch'], 2048, device=options['device'])
    labels = [DataSample().set_gt_label(i % 1000).to(options['device']) for i in range(options['batch'])]

    def head(model: Any) -> None:
        model.head.loss((features.clone().requires_grad_(),), labels)['loss'].backward()

    found: dict[str, list[list[float]]] = {'step': [[], []], 'head': [[], []]}
    for k in range(rounds):
        for place in (0, 1, 1, 0) if k % 2 else (1, 0, 0, 1):
            model, optim_wrapper = runs[place].model, runs[place].optim_wrapper
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e-6)
            found['step'][place].append(seconds(optim_wrapper.step, options['device']))
            optim_wrapper.zero_grad()
            found['head'][place].append(seconds(partial(head, model), options['device']))
    return {name: [1e3 * statistics.median(values) for values in both] for name, both in found.items()}


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


def peak_mb(config: str, options: dict[str, Any]) -> float:
    """Most memory that tensors take in one iteration after two others."""
    (run,) = trainers([config], **options)
    run()
    run()
    if options['device'] == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor)]
    stays = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == '[memory]']
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return (stays + max(itertools.accumulate(changes))) / 2**20


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=FIXNORM, help='in configs/imagenet, with the backbone of the baseline')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--size', type=int, default=224, help='height and width of the images')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--warm-up', type=int, default=2, help='iterations of each that are not counted')
    parser.add_argument('--pairs', type=int, default=6, help='of processes, and as many of the baseline with itself')
    parser.add_argument('--rounds', type=int, default=4, help='of four iterations, in each process')
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    options = dict(batch=args.batch, size=args.size, device=args.device, threads=args.threads)

    found: dict[str, list[dict[str, Any]]] = {args.config: [], BASELINE: []}
    for k in range(2 * args.pairs):
        for other, results in found.items():
            results.append(in_own_process(paired, other, options, args.warm_up, args.rounds, k % 2 == 1))
    iteration, control = map(over_processes, found.values())
    for name, result in (('time', iteration), ('control', control)):
        print('{:8}{:.4f}  [{:.4f}, {:.4f}]'.format(name, result['ratio'], *result['interval_95']), flush=True)
    parts = in_own_process(differing_parts, args.config, options)
    for name, (theirs, ours) in parts.items():
        print(f'{name:8}{ours - theirs:+.2f} ms  ({theirs:.2f} and {ours:.2f})')
    by_parts = 1 + sum(ours - theirs for theirs, ours in parts.values()) / iteration['median_ms'][0]
    print(f'by parts {by_parts:.4f}', flush=True)
    peak = {name: in_own_process(peak_mb, name, options) for name in (BASELINE, args.config)}
    print(f'memory  {peak[args.config] / peak[BASELINE]:.4f}  ({peak[BASELINE]:.0f} MB)')
    name = torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine()
    line = json.dumps(
        dict(
            baseline=BASELINE,
            fixnorm=args.config,
            **options,
            name=name,
            torch=torch.__version__,
            warm_up=args.warm_up,
            rounds=args.rounds,
            iteration=iteration,
            control=control,
            parts_ms=parts,
            by_parts=by_parts,
            peak_mb=peak,
        )
    )
    print(line)
    if args.out:
        with open(args.out, 'a') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
