"""What norm fixing costs: ratios, measured side by side in one run on ResNet-50's parameters.

1. A step of SGD (Nesterov momentum) with weight decay is 1.00; FixNorm's step against it, the step by angle (per
   layer), and SGD without any.
   Each of torch's two implementations against itself: foreach, and fused, which reads and writes every float once.
2. The rescale alone against the time to read N floats and to read and write N floats of one flat tensor, which
   is the least it can do.

Rounds of all variants in turn, the median of the rounds' ratios with its quartiles; prints a table and, last,
one line of JSON. Run it on an otherwise idle machine::

    python benchmarks/norm_fixing.py [--device cuda] [--threads 2] [--rounds 60] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torchvision.models import resnet50

from mmfixnorm.core import fix_norm, norm_fixing_parameters
from mmfixnorm.core.norms import global_norm, scale_

WARM_UP = 5


IMPLEMENTATIONS = ('foreach', 'fused')


def stepper(
    device: str, implementation: str, *, weight_decay: float = 0.0, update: str | None = None
) -> Callable[[], object]:
    """One optimizer step on ResNet-50's parameters with constant small gradients."""
    torch.manual_seed(0)
    model = resnet50().to(device)
    for param in model.parameters():
        param.grad = 1e-4 * torch.randn_like(param)
    in_set = {id(p) for p in norm_fixing_parameters(model).values()}
    groups = [
        dict(params=[p for p in model.parameters() if id(p) in in_set], weight_decay=weight_decay),
        dict(params=[p for p in model.parameters() if id(p) not in in_set]),
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True, **{implementation: True})
    if update is not None:
        fix_norm(optimizer, model=model, update=update)
    return optimizer.step


def rescaler(device: str) -> Callable[[], object]:
    """The rescale alone: measure the norm of the set, multiply by target / norm."""
    torch.manual_seed(0)
    tensors = [p.detach() for p in norm_fixing_parameters(resnet50().to(device)).values()]
    target = global_norm(tensors).item()
    return lambda: scale_(tensors, target / global_norm(tensors))


def flat(device: str) -> torch.Tensor:
    """As many floats as the set has, in one piece."""
    return torch.ones(sum(p.numel() for p in norm_fixing_parameters(resnet50()).values()), device=device)


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of one call, with the device's queue empty before and after."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    variants: dict[str, Callable[[], object]], base: Callable[[str], Sequence[str]], rounds: int, device: str
) -> dict:
    """Quartiles of each variant's time over the summed time of those that ``base`` gives for it, round by round."""
    for run in variants.values():
        for _ in range(WARM_UP):
            run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(seconds(run, device))
    result = {}
    for name, values in times.items():
        bases = [sum(parts) for parts in zip(*(times[other] for other in base(name)), strict=True)]
        low, median, high = statistics.quantiles([v / b for v, b in zip(values, bases, strict=True)], n=4)
        result[name] = dict(ratio=median, quartiles=[low, high], median_ms=1e3 * statistics.median(values))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--out', help='file to append the JSON line to')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = args.device

    step = compare(
        {
            f'{what}, {how}': stepper(device, how, **options)
            for how in IMPLEMENTATIONS
            for what, options in {
                'SGD + weight decay': dict(weight_decay=1e-4),
                'SGD + FixNorm': dict(update='step'),
                'SGD + FixNorm by angle': dict(update='angle'),
                'SGD alone': {},
            }.items()
        },
        lambda name: [f'SGD + weight decay, {name.rpartition(", ")[2]}'],
        args.rounds,
        device,
    )
    # Its own buffers, so that no variant finds the other's floats in a cache.
    reading, writing = flat(device), flat(device)
    rescale = compare(
        {
            'read N': lambda: torch.linalg.vector_norm(reading),
            'read and write N': lambda: writing.mul_(1.0),
            'rescale': rescaler(device),
        },
        lambda name: ['read N', 'read and write N'],
        args.rounds,
        device,
    )
    name = torch.cuda.get_device_name() if device == 'cuda' else platform.processor() or platform.machine()
    result = dict(
        device=device,
        name=name,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        elements=reading.numel(),
        rounds=args.rounds,
        step=step,
        rescale=rescale,
    )
    for title, table in (('step', step), ('rescale', rescale)):
        for variant, row in table.items():
            low, high = row['quartiles']
            print(f'{title:8} {variant:28} {row["ratio"]:5.2f}  [{low:.2f}, {high:.2f}]  {row["median_ms"]:8.2f} ms')
    line = json.dumps(result)
    print(line)
    if args.out:
        with open(args.out, 'a') as file:
            file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
