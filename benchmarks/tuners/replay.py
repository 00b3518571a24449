"""Play every search method on a table of real trainings, over many shuffles.

A shuffle is a number. It draws, for each training, which of the table's seeds answers, and it is the
``sampler_seed`` of methods that have one. What a search would have trained is looked up, between the
points of the grid by interpolation (see ``surfaces.py``). A method is judged by the table's mean over
all seeds at the point that it chose, not by the value that made it choose::

    python benchmarks/tuners/replay.py benchmarks/tuners/tables/digits.json --shuffles 200 --gp-shuffles 50

What was played is kept in ``--cache``, so that the same command goes on; the result is a markdown file,
a JSON file and a plot in ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import mmfixnorm.search
from benchmarks.tuners.replay_report import Curve, write_report
from benchmarks.tuners.surfaces import Surface, Table, read_table
from mmfixnorm.search.methods.base import FinishedTraining, Spec, ranked
from mmfixnorm.search.methods.bayesian import BayesianSearch
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.methods.grid import GridSearch
from mmfixnorm.search.methods.halving import SuccessiveHalvingSearch
from mmfixnorm.search.methods.sampled import RandomSearch, SampledSearch
from mmfixnorm.search.methods.unimodal import UnimodalFixNormSearch
from mmfixnorm.search.planner import Done, Propose, Run, plan, propose
from mmfixnorm.search.settings import SearchSettings

HERE = Path(__file__).parent


class Ranges(NamedTuple):
    """What the methods are told of where to look."""

    name: str
    lr: tuple[float, float]
    weight_decay: tuple[float, float]


#: The paper's for ImageNet, and everything that the table has.
PAPER = Ranges('paper', (0.2, 3.2), (1e-5, 5e-4))


def whole(table: Table) -> Ranges:
    """Everything that the table has."""
    decays = table.surfaces['weight_decay']
    return Ranges('whole', (decays.lrs[0], decays.lrs[-1]), (decays.others[0], decays.others[-1]))


def methods(table: Table, ranges: Ranges) -> dict[str, SearchSettings]:
    """The methods by name, each with ``sampler_seed=0`` where it has one."""
    alphas = table.surfaces['alpha'].others
    common: dict[str, Any] = dict(lr_range=ranges.lr, rule=table.rule, metric=table.metric)
    pairs: dict[str, dict[str, Any]] = {
        'alpha': dict(alpha_range=(alphas[0], alphas[-1]), **common),
        'wd': dict(weight_decay_range=ranges.weight_decay, **common),
    }
    ends = (table.lengths[0], table.lengths[-1])
    found: dict[str, SearchSettings] = {
        'FixNormSearch': FixNormSearch(alphas=alphas, schedule_fractions=ends, **common),
        'UnimodalFixNormSearch': UnimodalFixNormSearch(alphas=alphas, schedule_fractions=ends, **common),
        'GridSearch, alpha': GridSearch(alphas=alphas, **common),
    }
    eta = {2: 5, 3: 3}[len(table.lengths)]
    halving: dict[str, Any] = dict(
        num_trials=eta ** len(table.lengths), reduction_factor=eta, schedule_fractions=table.lengths
    )
    for name, pair in pairs.items():
        found[f'RandomSearch, {name}'] = RandomSearch(**pair)
        found[f'SuccessiveHalvingSearch, {name}'] = SuccessiveHalvingSearch(**halving, **pair)
        found[f'BayesianSearch TPE, {name}'] = BayesianSearch(sampler='tpe', **pair)
        found[f'BayesianSearch GP, {name}'] = BayesianSearch(sampler='gp', **pair)
    return found


def surface_of(table: Table, settings: SearchSettings) -> Surface:
    """What a method trains on."""
    return table.surfaces['weight_decay' if settings.weight_decay_keys else 'alpha']


class Played(NamedTuple):
    """A search that was played: its trainings in order, what became of them, and the winner's key."""

    specs: list[Spec]
    finished: list[FinishedTraining]
    winner: str | None


def play(settings: SearchSettings, value_of: Callable[[Spec], float | None]) -> Played:
    """Play a search to its end."""
    specs: list[Spec] = []
    finished: list[FinishedTraining] = []
    proposed: list[Spec] = []
    while True:
        step = plan(settings, [*finished, *proposed])
        if isinstance(step, Propose):
            proposed += propose(settings, finished, step.keys)
        elif isinstance(step, Run):
            specs += step.specs
            finished += [FinishedTraining(s.key, s.point, value_of(s)) for s in step.specs]
        else:
            return Played(specs, finished, step.best.key if isinstance(step, Done) else None)


def replay(table: Table, settings: SearchSettings, shuffle: int) -> Curve | None:
    """Cost in T_max and true value of the point that leads, after each training; the winner's at the end.

    None for a search that ended without a winner.

    A longer training leads before a shorter one; of one length, that with the better value does.
    """
    surface = surface_of(table, settings)

    def value_of(spec: Spec) -> float | None:
        draw = np.random.default_rng([shuffle, zlib.crc32(spec.key.encode())])
        return surface.answer(spec.point.lr, _other(spec), spec.fraction, int(draw.integers(surface.num_seeds)))

    specs, finished, key = play(settings, value_of)
    if key is None:
        return None
    winner = next(c for c in finished if c.key == key)
    cost, values = [], []
    spent, leader = 0.0, None
    for spec, training in zip(specs, finished, strict=True):
        spent += spec.fraction
        if training.value is not None and (leader is None or _leads(table.rule, (spec, training), leader)):
            leader = (spec, training)
        if leader is not None:
            cost.append(round(spent, 9))
            values.append(surface.mean(leader[0].point.lr, _other(leader[0]), table.rule))
    values[-1] = surface.mean(winner.point.lr, _other(winner), table.rule)
    return Curve(cost, values)


def _other(training: Spec | FinishedTraining) -> float:
    point = training.point
    other = point.alpha if point.weight_decay is None else point.weight_decay
    if other is None:
        raise ValueError(f'{training.key} has neither alpha nor weight decay')
    return other


def _leads(rule: str, new: tuple[Spec, FinishedTraining], leader: tuple[Spec, FinishedTraining]) -> bool:
    if new[0].fraction != leader[0].fraction:
        return new[0].fraction > leader[0].fraction
    return ranked(rule, [leader[1], new[1]])[0] is new[1]


def with_seed(settings: SearchSettings, shuffle: int) -> SearchSettings:
    """The same with this ``sampler_seed``, where there is one."""
    return dataclasses.replace(settings, sampler_seed=shuffle) if isinstance(settings, SampledSearch) else settings


def _job(path: Path, settings: SearchSettings, shuffle: int) -> Curve | None:
    return replay(read_table(path), with_seed(settings, shuffle), shuffle)


def replay_all(path: Path, ranges: Ranges, shuffles: Callable[[str], int], cache: Path, processes: int) -> dict:
    """The curves of every method by name; None for a shuffle without a winner."""
    table = read_table(path)
    curves: dict[str, list[Curve | None]] = {}
    with ProcessPoolExecutor(processes) as pool:
        for name, settings in methods(table, ranges).items():
            file = cache / f'{_digest(path, settings)}.jsonl'
            known = [_from_json(line) for line in file.read_text().splitlines()] if file.exists() else []
            total = shuffles(name)
            job = partial(_job, path, settings)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open('a') as f:
                for curve in pool.map(job, range(len(known), total), chunksize=5):
                    f.write(json.dumps(curve) + '\n')
                    f.flush()
                    known.append(curve)
            curves[name] = known[:total]
            print(f'{table.name}, {ranges.name} ranges, {name}: {total} shuffles', flush=True)
    return curves


def _from_json(line: str) -> Curve | None:
    found = json.loads(line)
    return None if found is None else Curve(*found)


def _digest(path: Path, settings: SearchSettings) -> str:
    """A name for what was played: the table, the settings, and the code of the method and of the replay."""
    methods = Path(mmfixnorm.search.__file__).parent / 'methods'
    code = [methods / f'{name}.py' for name in ('base', *_CODE[settings.kind])]
    code += [HERE / name for name in ('replay.py', 'surfaces.py')]
    parts = [repr(sorted(settings.identity().items())).encode(), *(p.read_bytes() for p in (path, *code))]
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()[:16]


#: Modules of ``mmfixnorm.search.methods`` that decide what each method trains.
_CODE = {
    'FixNormSearch': ('fixnorm',),
    'UnimodalFixNormSearch': ('unimodal',),
    'GridSearch': ('grid', 'fixnorm'),
    'RandomSearch': ('sampled',),
    'SuccessiveHalvingSearch': ('sampled', 'halving'),
    'BayesianSearch': ('sampled', 'bayesian'),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('tables', nargs='+', type=Path)
    parser.add_argument('--shuffles', type=int, default=200)
    parser.add_argument('--gp-shuffles', type=int, default=50, help='a Gaussian process is slow (default: %(default)s)')
    parser.add_argument('--within', type=float, default=0.2, help="points of the table's best (default: %(default)s)")
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--cache', type=Path, default=Path('work_dirs/tuners/replay'))
    parser.add_argument('--out', type=Path, default=HERE / 'results')
    args = parser.parse_args(argv)
    for path in args.tables:
        for ranges in _ranges(path):
            curves = replay_all(
                path,
                ranges,
                lambda name: args.gp_shuffles if ' GP' in name else args.shuffles,
                args.cache,
                args.processes,
            )
            print(write_report(args.out, read_table(path), ranges, curves, args.within))
    return 0


def _ranges(path: Path) -> Iterator[Ranges]:
    yield PAPER
    yield whole(read_table(path))


if __name__ == '__main__':
    sys.exit(main())
