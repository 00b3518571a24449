"""Weight decay against FixNorm on the small detection and segmentation tasks, each at its best learning rate.

For each task and method a grid of learning rates is trained with seed 0 (``tools/fixnorm_search.py run``, so an
interrupted run goes on). The smallest learning rate within one point of the best on ``val`` is trained again with the
other seeds, and its models are tested once on ``test``. One JSON line per training goes to ``--out``; what is there
already is not run again. The table is made from that file::

    python benchmarks/wd_against_fixnorm.py run bccd camvid --workers 2 --out FILE
    python benchmarks/wd_against_fixnorm.py table --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
METHODS = ('wd', 'fixnorm')
RECORD = Path(__file__).with_name('wd_against_fixnorm_cpu_202611.jsonl')


@dataclass(frozen=True)
class Task:
    """Two configs that differ in the method, the metric, and the learning rates of each method."""

    config: str
    metric: str
    lrs: dict[str, tuple[float, ...]]

    def percent(self, value: float | None) -> float | None:
        """mmdet reports fractions, mmseg percent; None for a training that diverged."""
        return value if value is None else round(value * (100 if self.metric.startswith('coco/') else 1), 2)

    def config_of(self, method: str) -> Path:
        return ROOT / 'configs' / self.config.format(method=method)


TASKS = {
    'bccd': Task(
        config='bccd/retinanet_r18-thin-fpn_{method}_1xb4-600i_bccd.py',
        metric='coco/bbox_mAP_50',
        lrs=dict(wd=(0.01, 0.02, 0.04, 0.08), fixnorm=(0.02, 0.04, 0.08)),
    ),
    'camvid': Task(
        config='camvid/base-oc_r18-thin-d8_{method}_1xb8-240i_camvid.py',
        metric='mIoU',
        lrs=dict(wd=(0.1, 0.3, 0.6, 1.0), fixnorm=(0.1, 0.3, 0.6, 1.0)),
    ),
}


def train(task: Task, method: str, seed: int, lrs: Sequence[float], folder: Path, workers: int) -> list[dict]:
    """One grid with one seed; a record of each training."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / 'grid.py'
    settings = dict(type='GridSearch', lrs=list(lrs), metric=task.metric, seed=seed, workers=workers)
    settings['keep_weights'] = 'all'
    if method == 'fixnorm':  # the config has a search of its own
        settings['_delete_'] = True
    config.write_text(f'_base_ = [{str(task.config_of(method))!r}]\nsearch = dict({call(settings)})\n')
    run_tool('fixnorm_search.py', 'run', config, '--work-dir', folder / 'search')
    records = []
    for trial in sorted((folder / 'search/trials').iterdir()):
        result = json.loads((trial / 'result.json').read_text())
        value, seconds = task.percent(result['value']), round(result['seconds'])
        records.append(dict(lr=result['built_lrs'][-1], seed=seed, val=value, seconds=seconds))
        weights = list((trial / 'run').glob('*.pth'))
        if value is not None:
            checkpoint = max(weights, key=os.path.getmtime)
            records[-1].update(test(task, trial / 'config.py', checkpoint, trial / 'test'), **scale(checkpoint))
    return records


def run_tool(name: str, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, ROOT / 'tools' / name, *arguments], check=True, cwd=ROOT)


def test(task: Task, config: Path, checkpoint: Path, folder: Path) -> dict[str, float | None]:
    """The metric on ``test``."""
    out = folder / 'metrics.json'
    run_tool('test.py', config, checkpoint, '--work-dir', folder, '--out', out, '--out-item', 'metrics')
    return dict(test=task.percent(json.loads(out.read_text())[task.metric]))


def scale(checkpoint: Path) -> dict[str, float]:
    """The scale of the layer that classifies, as it was learnt; nothing for a plain layer."""
    state = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    names = ('bbox_head.retina_cls.g', 'decode_head.conv_seg.g')
    found = [state[name].item() for name in names if name in state]
    return dict(g=round(found[0], 3)) if found else {}


def call(settings: dict) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in settings.items())


def run(name: str, out: Path, work_dir: Path, seeds: int, workers: int) -> None:
    """Everything of one task that ``out`` does not have."""
    task = TASKS[name]
    for method in METHODS:
        done = {r['seed'] for r in read(out) if (r['task'], r['method']) == (name, method)}
        folder = work_dir / name / method
        if 0 not in done:
            write(out, name, method, train(task, method, 0, task.lrs[method], folder / 'seed0', workers))
        lr = chosen_lr([r for r in read(out) if (r['task'], r['method']) == (name, method)])
        tested = [r for r in read(out) if r.get('test') is not None]
        done = {r['seed'] for r in tested if (r['task'], r['method'], r['lr']) == (name, method, lr)}
        # Each is told of all workers, by which a trial's number of threads is counted.
        with ThreadPoolExecutor(workers) as pool:
            again = {
                seed: pool.submit(train, task, method, seed, [lr], folder / f'lr{lr:g}-seed{seed}', workers)
                for seed in range(seeds)
                if seed not in done
            }
            for future in again.values():
                write(out, name, method, future.result())


def write(out: Path, name: str, method: str, records: list[dict]) -> None:
    kind = dict(machine=platform.machine(), torch=torch.__version__)
    with out.open('a') as f:
        for record in records:
            line = dict(task=name, method=method, config=TASKS[name].config_of(method).name, **record, **kind)
            f.write(json.dumps(line) + '\n')


def chosen_lr(records: list[dict]) -> float:
    """The smallest learning rate of the grid with seed 0 whose result on ``val`` is within one point of the best."""
    grid = [r for r in records if r['seed'] == 0 and r['val'] is not None]
    best = max(r['val'] for r in grid)
    return min(r['lr'] for r in grid if r['val'] >= best - 1)


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(records: list[dict]) -> Iterator[str]:
    """Markdown, one row per task and method: results in percent."""
    yield '| task | method | lr: val, seed 0 | test at the chosen lr, seeds 0, 1, ... | mean (standard deviation) | g |'
    yield '|---|---|---|---|---|---|'
    for name, method in dict.fromkeys((r['task'], r['method']) for r in records):
        rows = [r for r in records if (r['task'], r['method']) == (name, method)]
        grid = '; '.join(
            f'{r["lr"]:g}: {shown(r["val"])}' for r in sorted(rows, key=lambda r: r['lr']) if not r['seed']
        )
        final = [r for r in rows if r['lr'] == chosen_lr(rows) and r.get('test') is not None]
        values = [r['test'] for r in final]
        spread = f' ({statistics.stdev(values):.2f})' if len(values) > 1 else ''
        scales = ', '.join(f'{r["g"]:.2f}' for r in final if 'g' in r)
        tests = ', '.join(f'{value:.1f}' for value in values)
        yield f'| {name} | {method} | {grid} | {tests} | {statistics.mean(values):.2f}{spread} | {scales} |'


def shown(value: float | None) -> str:
    return 'diverged' if value is None else f'{value:.1f}'


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('verb', choices=['run', 'table'])
    parser.add_argument('tasks', nargs='*', help=f'of {sorted(TASKS)} (default: all)')
    parser.add_argument('--out', type=Path, default=RECORD, help='one JSON line per training (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/wd_against_fixnorm'))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args(argv)
    if unknown := set(args.tasks) - set(TASKS):
        parser.error(f'no such task: {sorted(unknown)}; there are {sorted(TASKS)}')
    if args.verb == 'run':
        for name in args.tasks or TASKS:
            run(name, args.out, args.work_dir.resolve(), args.seeds, args.workers)
    print('\n'.join(table(read(args.out))))
    return 0


if __name__ == '__main__':
    sys.exit(main())
