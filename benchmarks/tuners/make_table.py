"""Train the tables on which ``replay.py`` plays every search method, with the search itself.

    python benchmarks/tuners/make_table.py digits --seeds 0 1 2
    python benchmarks/tuners/make_table.py cifar10-1k --seeds 0 1

Every cell is a real training, a trial of a ``GridSearch`` in ``work_dirs/tuners``; the same command goes
on where it was stopped. After each grid the table in ``benchmarks/tuners/tables`` is written anew.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mmengine
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.warm_executor import WarmExecutor
from mmfixnorm.search._utils.files import write_text
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record

HERE = Path(__file__).parent
ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Axes(NamedTuple):
    """The grids of a task: three lrs to a decade, and as far out as something is learnt or diverges."""

    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]
    fractions: tuple[float, ...]


TASKS = {
    'digits': Axes(
        (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8), (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1.0, 0.2)
    ),
    'cifar10-1k': Axes((0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4), (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1.0, 0.2)),
}


class Grid(NamedTuple):
    """One search: learning rates by alphas, or learning rates at one weight decay."""

    weight_decay: float | None
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        what = 'alpha' if self.weight_decay is None else f'wd{self.weight_decay:g}'
        return f'{what}_x{self.fraction:g}_seed{self.seed}'


def grids(axes: Axes, seeds: list[int]) -> Iterator[Grid]:
    """A seed after the other, so that there is a whole table early."""
    for seed in seeds:
        for fraction in axes.fractions:
            yield Grid(None, fraction, seed)
            for weight_decay in axes.weight_decays:
                yield Grid(weight_decay, fraction, seed)


def train_grid(task: str, axes: Axes, grid: Grid, executor: WarmExecutor) -> list[dict[str, Any]]:
    """Train a grid to its end, or find it trained; return its rows of the table."""
    options: dict[str, Any] = {
        'search.lrs': axes.lrs,
        'search.seed': grid.seed,
        'search.schedule_fraction': grid.fraction,
    }
    kind = 'fixnorm'
    if grid.weight_decay is None:
        options['search.alphas'] = ALPHAS
    else:
        kind = 'wd'
        options['optim_wrapper.optimizer.weight_decay'] = grid.weight_decay
    problem = load_problem(
        HERE / 'configs' / f'{task}_{kind}.py',
        work_dir=Path('work_dirs/tuners') / task / grid.name,
        cfg_options=options,
    )
    outcome = run_search(problem, executor=executor, poll_s=0.05)
    if outcome.kind not in ('done', 'stuck'):  # stuck: all diverged, which is a result here
        raise SystemExit(f'{grid.name}: {outcome.kind}: {outcome.message}')
    rows = [_row(grid, closed) for closed in read_record(problem.work_dir).finished()]
    print(f'{task} {grid.name}: {len(rows)} trainings in {outcome.seconds:.0f} s', flush=True)
    return rows


def _row(grid: Grid, closed: Any) -> dict[str, Any]:
    row = {'kind': 'alpha', 'lr': closed.point.lr, 'alpha': closed.point.alpha}
    if grid.weight_decay is not None:
        row = {'kind': 'weight_decay', 'lr': closed.point.lr, 'weight_decay': grid.weight_decay}
    return {**row, 'fraction': grid.fraction, 'seed': grid.seed, 'value': closed.value}


def write_table(task: str, axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Write the data file, a training a line."""
    head = {
        'name': task,
        'metric': 'accuracy/top1',
        'rule': 'greater',
        'provenance': {
            'command': f'python benchmarks/tuners/make_table.py {task} --seeds 0 1 ...',
            'configs': [f'benchmarks/tuners/configs/{task}_{kind}.py' for kind in ('fixnorm', 'wd')],
            'torch': torch.__version__,
            'mmengine': mmengine.__version__,
            'machine': f'{platform.machine()} CPU, 1 thread a training',
        },
        'lengths': sorted(axes.fractions),
        'alpha': {'lrs': axes.lrs, 'alphas': ALPHAS},
        'weight_decay': {'lrs': axes.lrs, 'weight_decays': axes.weight_decays},
    }
    lines = ',\n'.join(json.dumps(row) for row in rows)
    text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + lines + '\n]}\n'
    write_text(HERE / 'tables' / f'{task}.json', text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=TASKS)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--workers', type=int, default=1)
    args = parser.parse_args()
    axes, rows = TASKS[args.task], []
    torch.set_num_threads(1)
    executor = WarmExecutor(args.workers)
    for grid in grids(axes, args.seeds):
        rows += train_grid(args.task, axes, grid, executor)
        write_table(args.task, axes, rows)


if __name__ == '__main__':
    main()
