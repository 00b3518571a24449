"""What a weight-normalised classifier costs: forward and backward, in turn with the plain one, in one process.

*weight scaled* always scales the weight; *smaller scaled* is the layer as it is, which scales the input where that has
fewer elements. Prints medians and, last, one line of JSON::

    python benchmarks/head.py [--batch 16] [--features 2048] [--classes 1000] [--threads 2] [--rounds 200] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfixnorm.core import FixNormLinear


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('batch', 16), ('features', 2048), ('classes', 1000), ('threads', 2), ('rounds', 200)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    x = torch.randn(args.batch, args.features, requires_grad=True)
    upstream = torch.randn(args.batch, args.classes)
    size = args.features, args.classes
    plain, ours = nn.Linear(*size), FixNormLinear(*size, alpha=1.0)
    forms: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        'plain': (plain, lambda: plain(x)),
        'weight scaled': (ours, lambda: F.linear(x, ours.effective_weight(), ours.bias)),
        'smaller scaled': (ours, lambda: ours(x)),
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, (layer, forward) in forms.items():
            layer.zero_grad()
            start = time.perf_counter()
            forward().backward(upstream)
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: round(statistics.median(of), 3) for name, of in times.items()}
    for name, median in medians.items():
        print(f'{name:15} {median:7.2f} ms, {median - medians["plain"]:+.2f}')
    line = json.dumps(dict(vars(args), torch=torch.__version__, medians_ms=medians))
    print(line)
    if args.out:
        with open(args.out, 'a', encoding='utf-8') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
