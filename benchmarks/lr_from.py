"""A recipe with weight decay, and its FixNorm child with the learning rate of ``mmfixnorm convert --lr-from``.

Trains ``configs/digits/resnet8_wd_1xb64-20e_digits.py`` at several learning rates and weight decays, converts each with
the checkpoint that it arrived at, and trains the child twice: with that learning rate and with the base's own. What is
in the work dir is not trained again. Prints one JSON line per base and seed, and ``table`` the means of such lines::

    python benchmarks/lr_from.py run [--data data/digits] [--work-dir DIR] [--out FILE]
    python benchmarks/lr_from.py table FILE

``base``, ``child``, ``same_lr``: top-1 on val after the last epoch, in percent. ``lr_child``: the learning rate found.
``norm``: of the set at the end of the base. The same for five networks of ``benchmarks/evidence``::

    python benchmarks/lr_from.py networks [--work-dir DIR] [--out FILE]
    python benchmarks/lr_from.py networks-table FILE

Each is trained once, as the better of its searches of weight decay has found best, and converted. ``best``: the best of
the seven learning rates at which its FixNorm was scanned (``evidence/results``); ``top``: the ends of those less than
1 point below it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.evidence.experiments import TUNED
from benchmarks.evidence.lab import Results, config_file
from benchmarks.evidence.rotation import SEEDS as SCANNED
from benchmarks.evidence.rotation import TASKS, top_of

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / 'configs/digits/resnet8_wd_1xb64-20e_digits.py'
BASES = ((0.1, 1e-4), (0.2, 1e-4), (0.4, 1e-4), (0.8, 1e-4), (0.4, 5e-3))
"""Learning rate and weight decay."""
SEEDS = (0, 1, 2)
CONFIG = """
_base_ = [{base!r}]
optim_wrapper = dict(optimizer=dict(lr={lr}, weight_decay={weight_decay}))
{data}
"""


def measure(lr: float, weight_decay: float, seed: int, work_dir: Path, data: Path) -> dict[str, Any]:
    """Train a base and its two children; return the numbers of a line."""
    name = f'{lr:g}_{weight_decay:g}'
    parts = (f"{part}_dataloader = dict(dataset=dict(data_root='{data / part}'))" for part in ('train', 'val', 'test'))
    plain, new = work_dir / f'plain_{name}.py', work_dir / f'child_{name}_{seed}.py'
    work_dir.mkdir(parents=True, exist_ok=True)
    plain.write_text(CONFIG.format(base=str(BASE), lr=lr, weight_decay=weight_decay, data='\n'.join(parts)))
    base = accuracy(plain, work_dir / f'base_{name}_{seed}', seed)
    found = work_dir / f'base_{name}_{seed}/epoch_20.pth'
    lr_child, norm = converted(plain, new, found, '--size', '16')
    return dict(
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        base=base,
        norm=norm,
        lr_child=lr_child,
        child=accuracy(new, work_dir / f'child_{name}_{seed}', seed),
        same_lr=accuracy(new, work_dir / f'same_{name}_{seed}', seed, f'optim_wrapper.optimizer.lr={lr}'),
    )


def converted(plain: Path, new: Path, checkpoint: Path, *options: str) -> tuple[float, float]:
    """Convert a config; return the learning rate that was found, and the norm of the set in the checkpoint."""
    tool('fixnorm_convert.py', plain, '-o', new, '--force', '--lr-from', checkpoint, *options)
    numbers = re.search(r'\^2 = ([\d.e-]+)\. .* they have ([\d.e-]+)\.', ' '.join(new.read_text().split('\n# ')))
    assert numbers is not None
    return float(numbers[1]), float(numbers[2])


def measure_network(task: str, work_dir: Path) -> dict[str, Any]:
    """Train one network of the evidence by tuned weight decay and convert it; return the numbers of a line."""
    results = Results()
    experiment, _, searched = TUNED[task]
    searches = [results.head(experiment, searched), results.head(f'rotation-{task}', f'wd/seed{SCANNED[0]}')]
    best = max((head for head in searches if head), key=lambda head: head['value'])
    lr, decay = best['winner'][0], best['winner'][2] or TASKS[task].decay
    base = config_file(TASKS[task].configs.format(method='wd'))
    last = work_dir / task / 'last_checkpoint'
    if not last.exists():
        values = (f'optim_wrapper.optimizer.{key}={value}' for key, value in (('lr', lr), ('weight_decay', decay)))
        tool('train.py', base, '--work-dir', last.parent, '--cfg-options', 'randomness.seed=0', *values)
    plain = work_dir / f'{task}.py'
    plain.write_text(f'_base_ = [{str(base)!r}]\noptim_wrapper = dict(optimizer=dict(lr={lr}, weight_decay={decay}))\n')
    lr_child, norm = converted(plain, work_dir / f'{task}_child.py', Path(last.read_text()))
    top, low, high = top_of([results.runs(f'rotation-{task}', f'fixnorm/seed{seed}') for seed in SCANNED])
    return dict(task=task, lr=lr, weight_decay=decay, norm=norm, lr_child=lr_child, best=top, top=[low, high])


def networks_table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the lines of the networks as a table in Markdown."""
    rows = [
        '| network | its lr, weight decay | norm at its end | lr found | best lr | within 1 point | found / best |',
        '|---|---|---|---|---|---|---|',
    ]
    for line in lines:
        low, high = line['top']
        cells = [line['task'], f'{line["lr"]:.2g}, {line["weight_decay"]:.2g}', f'{line["norm"]:.1f}']
        cells += [f'{line["lr_child"]:.2g}', f'{line["best"]:g}', f'{low:g} to {high:g}' if low < high else f'{low:g}']
        rows.append(f'| {" | ".join(cells)} | {line["lr_child"] / line["best"]:.2f} |')
    return '\n'.join(rows)


def accuracy(config: Path, work_dir: Path, seed: int, *options: str) -> float:
    """Train, unless it was done, and return the last accuracy on val."""
    if not (work_dir / 'epoch_20.pth').exists():
        changes = ['--cfg-options', f'randomness.seed={seed}', *options]
        tool('train.py', config, '--work-dir', work_dir, *changes)
    lines = [json.loads(line) for file in work_dir.glob('*/vis_data/scalars.json') for line in file.open()]
    return [float(line['accuracy/top1']) for line in lines if 'accuracy/top1' in line][-1]


def tool(script: str, *arguments: object) -> None:
    """Run a script of ``tools``; what it prints is shown if it fails."""
    command = [sys.executable, str(ROOT / 'tools' / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{" ".join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}')


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the means over the seeds, with the standard deviations, as a table in Markdown."""
    rows = [
        '| base: lr, weight decay | its top-1 | norm at its end | lr found | child, lr found | child, lr of the base |',
        '|---|---|---|---|---|---|',
    ]
    for lr, weight_decay in dict.fromkeys((line['lr'], line['weight_decay']) for line in lines):
        own = [line for line in lines if (line['lr'], line['weight_decay']) == (lr, weight_decay)]
        cells = [f'{lr:g}, {weight_decay:g}', _spread(own, 'base'), f'{_mean(own, "norm"):.1f}']
        cells += [f'{_mean(own, "lr_child"):.2g}', _spread(own, 'child'), _spread(own, 'same_lr')]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def _mean(lines: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.fmean(line[key] for line in lines)


def _spread(lines: Sequence[dict[str, Any]], key: str) -> str:
    return f'{_mean(lines, key):.2f} ({statistics.stdev(line[key] for line in lines):.2f})'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainings, or print the table of their lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='train')
    run.add_argument('--data', type=Path, default=Path('data/digits'), help='as the converter of the digits writes it')
    networks = commands.add_parser('networks', help='train the networks of the evidence')
    for command in (run, networks):
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs/lr_from'))
        command.add_argument('--out', type=Path, help='append the lines to a file as well')
    tables = {'table': table, 'networks-table': networks_table}
    for name in tables:
        commands.add_parser(name, help='print the table').add_argument('file', type=Path)
    args = parser.parse_args(argv)
    if args.command in tables:
        print(tables[args.command]([json.loads(line) for line in args.file.read_text().splitlines()]))
        return 0
    work_dir = args.work_dir.absolute()
    work_dir.mkdir(parents=True, exist_ok=True)
    if args.command == 'networks':
        lines = (measure_network(task, work_dir) for task in TUNED)
    else:
        lines = (measure(*base, seed, work_dir, args.data.absolute()) for base in BASES for seed in SEEDS)
    for line in map(json.dumps, lines):
        print(line, flush=True)
        if args.out:
            with args.out.open('a') as file:
                file.write(line + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
