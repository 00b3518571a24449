"""What object context pooling costs: ours against mmseg's, whose matrix has an entry for each pair of pixels.

Both run the same block with the same weights, forward and backward. Memory is the peak above what input and weights
take, each measurement in a process of its own on a CPU. Times are taken in turn, and the median of the rounds' ratios
is given with its quartiles. Prints a table and, last, one line of JSON. Run it on an otherwise idle Linux machine::

    python benchmarks/object_context.py [--sizes 33 65 97] [--batch 1] [--dtype float32] [--device cuda]
        [--threads 2] [--rounds 7] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmseg.models.utils import SelfAttentionBlock
from torch import Tensor

from mmfixnorm.seg import ObjectContext

CHANNELS, KEY_CHANNELS = 512, 256


class NaiveObjectContext(ObjectContext):
    """The same block with the forward of mmseg."""

    def forward(self, feats: Tensor) -> Tensor:
        self.query_project = self.key_project
        return SelfAttentionBlock.forward(self, feats, feats)


VARIANTS = {'mmseg': NaiveObjectContext, 'ours': ObjectContext}


def stepper(variant: str, size: int, *, batch: int, dtype: str, device: str, threads: int) -> Callable[[], None]:
    """Forward and backward of one variant on a map of ``size`` x ``size`` pixels."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    block = VARIANTS[variant](CHANNELS, KEY_CHANNELS, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    block.out_project.reset_parameters()  # at zero nothing flows back
    block = block.to(device, getattr(torch, dtype))
    feats = torch.randn(batch, CHANNELS, size, size, device=device, dtype=getattr(torch, dtype)).requires_grad_()

    def step() -> None:
        block(feats).square().mean().backward()

    return step


def peak_rss_mb() -> float:
    """The largest resident memory that this process ever had."""
    # Not resource.getrusage: its value is never below that of the parent process at the start.
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) / 1024


def peak_mb(variant: str, size: int, options: dict[str, Any]) -> float:
    """Peak memory of one step, in MB, above input and weights."""
    if options['device'] == 'cuda':
        stepper(variant, 8, **options)()  # what the libraries allocate once
        step = stepper(variant, size, **options)
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    stepper(variant, 8, **options)()
    step = stepper(variant, size, **options)
    before = peak_rss_mb()
    step()
    return peak_rss_mb() - before


def seconds(run: Callable[[], None], device: str) -> float:
    """Wall time of one call, with the device's queue empty before and after."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(size: int, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    """Memory and time of both, and the ratios ours / mmseg."""
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(peak_mb, (name, size, options)) for name in VARIANTS}
    steps = {name: stepper(name, size, **options) for name in VARIANTS}
    for run in steps.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, run in steps.items():
            times[name].append(seconds(run, options['device']))
    ratios = [ours / theirs for ours, theirs in zip(times['ours'], times['mmseg'], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return dict(
        size=size,
        memory_mb=memory,
        memory_ratio=memory['ours'] / memory['mmseg'],
        median_ms={name: 1e3 * statistics.median(values) for name, values in times.items()},
        time_ratio=median,
        time_quartiles=[low, high],
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[33, 65, 97], help='height and width in pixels')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--dtype', choices=['float32', 'float64', 'bfloat16'], default='float32')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    options = dict(batch=args.batch, dtype=args.dtype, device=args.device, threads=args.threads)
    rows = []
    for size in args.sizes:
        row = compare(size, args.rounds, options)
        rows.append(row)
        memory, ms = row['memory_mb'], row['median_ms']
        low, high = row['time_quartiles']
        print(
            f'{size:4} x {size:<4} memory {memory["ours"]:7.0f} / {memory["mmseg"]:7.0f} MB = {row["memory_ratio"]:.3f}'
            f'   time {ms["ours"]:7.0f} / {ms["mmseg"]:7.0f} ms = {row["time_ratio"]:.2f}  [{low:.2f}, {high:.2f}]',
            flush=True,
        )
    name = torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine()
    line = json.dumps(dict(**options, name=name, torch=torch.__version__, rounds=args.rounds, rows=rows))
    print(line)
    if args.out:
        with open(args.out, 'a') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
