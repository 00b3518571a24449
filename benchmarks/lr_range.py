"""The ranges that ``search.lr_range='auto'`` measures, over tasks and seeds, beside the best learning rate of a scan.

    python benchmarks/lr_range.py --seeds 0 1 2 3 4 --out benchmarks/lr_range_cpu_202611.jsonl

A line for each ramp; what is in the file is not measured again. Prints the table of ``docs/tuning.md``. The scans are
those of ``benchmarks/evidence/run.py``: of ``rotation-*`` for the tasks there, of ``fine-tune-*`` for those with a
frozen stem, whose backbone is trained first, of ``lr-range`` for the other networks.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.evidence.lab import Results, config_file, read_lines
from benchmarks.evidence.lr_fit import STOCK_LRS
from benchmarks.evidence.rotation import OTHER_NETWORKS, SEEDS, TASKS

#: The stock learning rate of each network: of mmdet's schedules for 8 images, and as in ``lr_fit`` else.
STOCK = {
    **STOCK_LRS,
    'resnet18': 0.1,
    **dict.fromkeys(['gfl', 'faster-rcnn', 'fcos', 'pspnet', 'uper', 'bccd-frozen', 'camvid-frozen'], 0.01),
}


def ramp(task: str, seed: int) -> dict[str, Any]:
    """Run the command on the FixNorm config of a task; return its line."""
    config = config_file(TASKS[task].configs.format(method='fixnorm') if task in TASKS else f'{task}_fixnorm.py')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'ramp.json')
        command = [sys.executable, '-m', 'mmfixnorm', 'lr-range', str(config), '--seed', str(seed), '--json', str(file)]
        command += ['--cfg-options', f'optim_wrapper.optimizer.lr={STOCK[task]}']
        begin = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        measured = json.loads(file.read_text())
    rest = {'end': measured['end'], 'iterations': measured['iterations'], 'part': round(measured['part'], 4)}
    return {
        'task': task,
        'seed': seed,
        'lr_range': measured['lr_range'],
        **rest,
        'seconds': round(time.monotonic() - begin),
    }


def scanned(task: str) -> dict[float, float]:
    """The mean value of each learning rate of the scans, over their seeds."""
    of_lr: dict[float, list[float]] = {}
    name, group = ('lr-range', task) if task in OTHER_NETWORKS else (f'rotation-{task}', 'fixnorm')
    if task.endswith('-frozen'):
        name = f'fine-tune-{task.removesuffix("-frozen")}'
    results = Results()
    for line in (line for seed in SEEDS for line in results.runs(name, f'{group}/seed{seed}')):
        of_lr.setdefault(line['lr'], []).append(0.0 if line['value'] is None else line['value'])
    return {lr: sum(values) / len(values) for lr, values in of_lr.items()}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each task, in Markdown."""
    head = (
        'task',
        'ramps',
        'range of the first',
        'largest / smallest of the ends',
        'iterations',
        'T_max',
        'best of a scan',
        'in',
        'lost at most',
    )
    rows = [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
    for task in dict.fromkeys(line['task'] for line in lines):
        of_task = [line for line in lines if line['task'] == task]
        ends = [line['end'] for line in of_task]
        values = scanned(task)
        best = max(values, key=lambda lr: values[lr], default=math.nan)
        holds = sum(line['lr_range'][0] <= best <= line['lr_range'][1] for line in of_task)
        ranges = [line['lr_range'] for line in of_task]
        inside = [max((v for lr, v in values.items() if low <= lr <= high), default=math.nan) for low, high in ranges]
        lost = max(values[best] - value for value in inside) if values else math.nan
        low, high = ranges[0]
        rows.append(
            f'| {task} | {len(of_task)} | {low:g} to {high:g} | {max(ends) / min(ends):.2f} '
            f'| {min(line["iterations"] for line in of_task)} to {max(line["iterations"] for line in of_task)} '
            f'| {max(line["part"] for line in of_task):.2g} | {best:g} | {holds} of {len(of_task)} | {lost:.2f} |'
        )
    return '\n'.join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tasks', nargs='+', choices=list(STOCK), default=list(STOCK))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args(argv)
    lines = read_lines(args.out)
    for seed in args.seeds:
        for task in args.tasks:
            if not any((line['task'], line['seed']) == (task, seed) for line in lines):
                lines.append(ramp(task, seed))
                with args.out.open('a', encoding='utf-8') as file:
                    file.write(json.dumps(lines[-1]) + '\n')
    print(table(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main())
