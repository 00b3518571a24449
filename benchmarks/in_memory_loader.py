"""Time of loading an epoch: the stock pipeline against ``InMemoryDataset``, in turns, in one run.

    python benchmarks/in_memory_loader.py --images 5000 --rounds 5

Both have ``num_workers=0``, so what is compared is work, not how it is spread over processes. Prints milliseconds for
100 images and their ratio; the time to decode everything once is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmfixnorm.cls  # noqa: F401
from mmfixnorm.config import load_config

STOCK = 'configs/_base_/datasets/cifar10_bs128.py'
IN_MEMORY = 'configs/_base_/datasets/cifar10_in-memory_bs128.py'


def build(filename: str, images: int) -> Any:
    loader = load_config(filename).train_dataloader
    inner = loader.dataset.get('dataset', loader.dataset)
    inner.subset = images // 10
    loader.num_workers = 0
    loader.persistent_workers = False
    return Runner.build_dataloader(loader, seed=0)


def epoch(loader: Any) -> float:
    begin = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=5000, help='training images, evenly over the ten classes')
    parser.add_argument('--rounds', type=int, default=5, help='epochs of each loader, in turns')
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    stock = build(STOCK, args.images)
    begin = time.perf_counter()
    in_memory = build(IN_MEMORY, args.images)
    decoding = time.perf_counter() - begin
    times = [(epoch(stock), epoch(in_memory)) for _ in range(args.rounds)]
    per_100 = [median(column) / args.images * 1e5 for column in zip(*times, strict=True)]
    print(
        json.dumps(
            {
                'images': args.images,
                'stock_ms_per_100': round(per_100[0], 2),
                'in_memory_ms_per_100': round(per_100[1], 2),
                'ratio': round(median(a / b for a, b in times), 2),
                'decoding_once_s': round(decoding, 2),
            }
        )
    )


if __name__ == '__main__':
    main()
