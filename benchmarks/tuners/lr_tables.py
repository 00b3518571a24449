"""Play the searches over the learning rate alone on what real trainings gave, from the raw lines of the evidence.

Each task of ``benchmarks/evidence`` becomes a table: the FixNorm trainings on validation data by their learning rate,
at full length and at a fifth of it. Between two learning rates the values are interpolated on a log scale; what is
asked for beyond them is trained at the end of the table, and the share of such trainings is told. Most learning rates
have one seed, so the table itself has the luck of one draw at each of them. To each training comes noise of the
standard deviation that new seeds had at the learning rates that were chosen (on test data, pooled)::

    python benchmarks/tuners/lr_tables.py --shuffles 200 --gp-shuffles 50

A search is judged by the table's value, without the noise, at the learning rate that it chose. What was played is in
``results/lr_tables.json``; ``benchmarks/evidence/report.py`` writes the tables of ``docs/tuning.md`` from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.evidence.lab import Lines, Results, read_lines
from benchmarks.evidence.lr_fit import STOCK_LRS
from benchmarks.tuners.replay import Played, play
from benchmarks.tuners.replay_report import Curve, regrets
from benchmarks.tuners.surfaces import Surface
from mmfixnorm.search._utils.space import Range
from mmfixnorm.search.methods import METHODS, bayesian
from mmfixnorm.search.methods.base import Spec
from mmfixnorm.search.methods.bayesian import BayesianSearch
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.methods.lr_fit import LRFitSearch
from mmfixnorm.search.methods.sampled import RandomSearch, SampledSearch
from mmfixnorm.search.settings import SearchSettings

HERE = Path(__file__).parent
RESULT = HERE / 'results/lr_tables.json'
RAMPS = HERE.parent / 'lr_range_cpu_202611.jsonl'
BUDGETS = (3, 5, 11)
RULE = 'greater'
_SHORT = 0.2
_OWN_ALPHA = 1.0  # of the FixNorm config of every task
#: The range that the searches of docs/evidence.md were told, for all but digits and residual after a first look.
RANGES = {
    'digits': (0.2, 3.2),
    'bccd': (0.01, 0.2),
    'camvid': (0.05, 1.0),
    'residual': (0.2, 3.2),
    'mobile': (0.05, 0.8),
}
#: Experiments of a task on validation data, and the groups of FixNorm there; then those on test data with new seeds.
SCANS = {
    task: (
        (f'rotation-{task}', 'fixnorm/seed'),
        *(('rotation-short', f'{task}/fixnorm/x{_SHORT:g}/seed'), (f'lr-fit-{task}', 'search')),
        *((table, group) for group in ('fixnorm', 'fixnorm-low', 'unimodal')),
    )
    for task, table in {
        **{task: f'transfer-{task}' for task in ('digits', 'bccd', 'camvid')},
        **{task: f'table1-{task}' for task in ('residual', 'mobile')},
    }.items()
}
FINALS = ('fixnorm/test', 'test', 'fixnorm-test', 'fixnorm-low-test', 'unimodal-test')


class _NoWidth(Range):
    """A number that is not searched."""

    def place(self, value: float) -> float:
        return 0.5


@dataclass(frozen=True)
class OneNumberSearch(BayesianSearch):
    """Bayesian optimisation over the learning rate alone, as rivals here tune nothing else."""

    kind: ClassVar[str] = 'OneNumberSearch'

    @property
    def ranges(self) -> dict[str, Range]:
        # A number without width takes no part in the Gaussian process.
        return {**super().ranges, 'alpha': _NoWidth(_OWN_ALPHA, _OWN_ALPHA, log=True)}


@contextmanager
def one_number_search() -> Iterator[None]:
    """Let the planner know :class:`OneNumberSearch` within the context."""
    METHODS[OneNumberSearch.kind] = bayesian.METHOD._replace(settings=OneNumberSearch)
    try:
        yield
    finally:
        del METHODS[OneNumberSearch.kind]


@dataclass(frozen=True)
class LRTable:
    """One task over its learning rates.

    Attributes:
        name: Of the task.
        surfaces: By length, 1 and a fifth, of one alpha and one seed; each has learning rates of its own.
        seeds: How many seeds each learning rate at full length has.
        noise: Standard deviation of a training between seeds, in points.
    """

    name: str
    surfaces: Mapping[float, Surface]
    seeds: Mapping[float, int]
    noise: float

    @cached_property
    def best(self) -> float:
        """The best value of the table at full length."""
        return self.surfaces[1.0].best(RULE)[0]

    def clamped(self, lr: float, fraction: float) -> float:
        """Return the nearest learning rate that the table reaches."""
        lrs = self.surfaces[fraction].lrs
        return min(max(lr, lrs[0]), lrs[-1])

    def value(self, lr: float, fraction: float = 1.0) -> float | None:
        """Return what a training gives without noise; None if it diverges."""
        return self.surfaces[fraction].answer(self.clamped(lr, fraction), _OWN_ALPHA, fraction, 0)

    def drawn(self, spec: Spec, shuffle: int) -> float | None:
        """Return what a training gives with the noise of a shuffle."""
        value = self.value(spec.point.lr, spec.fraction)
        noise = np.random.default_rng([shuffle, zlib.crc32(spec.key.encode())]).normal(0.0, self.noise)
        return None if value is None else value + noise

    def judged(self, lr: float) -> float:
        """Return the value at a learning rate that was chosen; one that diverges counts as the worst of the table."""
        value = self.value(lr)
        return float(np.nanmin(self.surfaces[1.0].values[1.0])) if value is None else value


def read_table(results: Results, task: str) -> LRTable:
    """Make the table of a task from the raw lines.

    At a learning rate with several alphas the one nearest to the config's own counts; several seeds are averaged, and a
    learning rate at which one diverged is one that diverges.
    """
    found: dict[float, dict[float, dict[int, tuple[float, float]]]] = {1.0: {}, _SHORT: {}}
    for experiment, group in SCANS[task]:
        for line in _runs(results, experiment, group):
            if line['fraction'] not in found or line['key'] == 'ramp':
                continue
            off = abs(math.log((line['alpha'] or _OWN_ALPHA) / _OWN_ALPHA))
            of_lr = found[line['fraction']].setdefault(line['lr'], {})
            value = math.nan if line['value'] is None else line['value']
            if line['seed'] not in of_lr or off < of_lr[line['seed']][0]:
                of_lr[line['seed']] = (off, value)
    surfaces = {}
    for fraction, of_lrs in found.items():
        lrs = tuple(sorted(of_lrs))
        means = [statistics.fmean(value for _, value in of_lrs[lr].values()) for lr in lrs]
        surfaces[fraction] = Surface(lrs, (_OWN_ALPHA,), {fraction: np.array(means).reshape(1, -1, 1)})
    seeds = {lr: len(of_lr) for lr, of_lr in sorted(found[1.0].items())}
    return LRTable(task, surfaces, seeds, noise_of(results, task))


def noise_of(results: Results, task: str) -> float:
    """Pool the standard deviation over new seeds of all learning rates that were chosen on a task."""
    groups = [
        values
        for experiment in dict(SCANS[task])
        for group in FINALS
        if len(values := results.values(experiment, group)) > 1
    ]
    freedom = sum(len(values) - 1 for values in groups)
    return math.sqrt(sum((len(values) - 1) * statistics.variance(values) for values in groups) / freedom)


def _runs(results: Results, experiment: str, group: str) -> Lines:
    if not group.endswith('seed'):
        return results.runs(experiment, group)
    return [line for seed in range(5) for line in results.runs(experiment, f'{group}{seed}')]


class Entry(NamedTuple):
    """A method with a budget: its settings for a shuffle, what it costs beside its trainings, and where it is judged.

    Attributes:
        settings: One for each ramp where it measures its range, else one.
        ramps: The costs of these ramps, in T_max.
        at: Cost at which the leading training is judged; None for the winner of the whole search.
    """

    settings: tuple[SearchSettings, ...]
    ramps: tuple[float, ...] = (0.0,)
    at: int | None = None


def entries(task: str) -> dict[str, Entry]:
    """List the methods by the names of their rows."""
    told: dict[str, Any] = dict(lr_range=RANGES[task])
    fit: dict[str, Any] = dict(own_lr=STOCK_LRS[task], alphas=(_OWN_ALPHA,))
    ramps = [line for line in read_lines(RAMPS) if line['task'] == task]
    found: dict[str, Entry] = {}
    for n in BUDGETS:
        name = f'`LRFitSearch`, {n} trainings'
        settings = LRFitSearch(num_trainings=n, **fit)
        measured = tuple(dataclasses.replace(settings, lr_range=tuple(ramp['lr_range'])) for ramp in ramps)
        found[f"{name}, `lr_range='auto'`"] = Entry(measured, tuple(ramp['part'] for ramp in ramps))
        found[name] = Entry((LRFitSearch(num_trainings=n, **fit, **told),))
    for n in (3, 5, 6):
        settings4 = FixNormSearch(alphas=(_OWN_ALPHA,), budget=n, **told)
        found[f'Algorithm 4 over lr, {"whole" if n == 6 else f"budget {n}"}'] = Entry((settings4,))
    sampled: dict[str, Any] = dict(alpha_range=(_OWN_ALPHA, 2 * _OWN_ALPHA), num_trials=max(BUDGETS), **told)
    rivals = {
        'random': RandomSearch(**sampled),
        'BO, TPE': OneNumberSearch(sampler='tpe', num_startup_trials=2, **sampled),
        'BO, GP': OneNumberSearch(sampler='gp', num_startup_trials=2, **sampled),
    }
    for name, rival in rivals.items():
        for n in BUDGETS:
            found[f'{name}, {n} trainings'] = Entry((rival,), at=n)
    return found


class Outcome(NamedTuple):
    """One shuffle of one method: cost in T_max, regret in points, whether it is worse than the config's own lr."""

    cost: float
    regret: float
    worse: bool
    beyond: float


def played(table: LRTable, settings: SearchSettings, shuffle: int) -> Played:
    """Play a search to its end with the noise of a shuffle."""
    if isinstance(settings, SampledSearch):
        settings = dataclasses.replace(settings, sampler_seed=shuffle)
    with one_number_search():
        return play(settings, lambda spec: table.drawn(spec, shuffle))


def outcome(table: LRTable, search: Played, ramp: float, at: int | None) -> Outcome | None:
    """Judge a search that was played; None if it has no winner."""
    specs, finished, key = search
    if at is not None:
        specs, finished = specs[:at], finished[:at]
        with_value = [t for t in finished if t.value is not None]
        key = max(with_value, key=lambda t: t.value or 0.0).key if with_value else None
    if key is None:
        return None
    chosen = table.judged(next(t for t in finished if t.key == key).point.lr)
    curve = Curve([0.0], [chosen])
    beyond = statistics.fmean(table.clamped(s.point.lr, s.fraction) != s.point.lr for s in specs)
    own = table.judged(STOCK_LRS[table.name])
    return Outcome(
        cost=sum(spec.fraction for spec in specs) + ramp,
        regret=float(regrets(curve, table.best, RULE)[0]),
        worse=chosen < own - 1e-9,
        beyond=beyond,
    )


def summarise(outcomes: Sequence[Outcome | None]) -> dict[str, float | int]:
    """Count the shuffles of a method together; one without a winner is told and takes no part in the means."""
    ended = [o for o in outcomes if o is not None]
    return {
        'shuffles': len(outcomes),
        'without_winner': len(outcomes) - len(ended),
        'cost': round(statistics.fmean(o.cost for o in ended), 3),
        'mean': round(statistics.fmean(o.regret for o in ended), 3),
        'worst': round(max(o.regret for o in ended), 3),
        'worse_than_own': round(statistics.fmean(o.worse for o in ended), 4),
        'beyond': round(statistics.fmean(o.beyond for o in ended), 4),
    }


def play_task(table: LRTable, shuffles: int, gp_shuffles: int) -> Iterator[tuple[str, dict[str, float | int]]]:
    """Play every method on one table; yield its summary."""
    kept: dict[tuple[SearchSettings, int], Played] = {}
    for name, entry in entries(table.name).items():
        outcomes = []
        for shuffle in range(gp_shuffles if name.startswith('BO, GP') else shuffles):
            settings, ramp = entry.settings[shuffle % len(entry.settings)], entry.ramps[shuffle % len(entry.ramps)]
            if (settings, shuffle) not in kept:
                kept[settings, shuffle] = played(table, settings, shuffle)
            outcomes.append(outcome(table, kept[settings, shuffle], ramp, entry.at))
        yield name, summarise(outcomes)


def about(table: LRTable) -> dict[str, Any]:
    """What is told of a table beside the results."""
    full = table.surfaces[1.0]
    return {
        'lrs': list(full.lrs),
        'short_lrs': list(table.surfaces[_SHORT].lrs),
        'with_one_seed': sum(n == 1 for n in table.seeds.values()),
        'noise': round(table.noise, 3),
        'best': round(table.best, 3),
        'best_lr': full.best(RULE)[1],
        'own_lr': STOCK_LRS[table.name],
        'own_regret': round(table.best - table.judged(STOCK_LRS[table.name]), 3),
        'told': list(RANGES[table.name]),
    }


def tables_text(data: Mapping[str, Any]) -> str:
    """One row for each table: what it is made of."""
    head = [
        'task',
        'learning rates',
        'of them with one seed',
        'noise',
        'best',
        'at lr',
        'stock lr',
        'its regret',
        'told',
    ]
    rows = [head, ['---'] * len(head)]
    for task, of in data.items():
        t = of['table']
        lrs = f'{len(t["lrs"])} from {t["lrs"][0]:g} to {t["lrs"][-1]:g}'
        numbers = [f'{t["noise"]:.2f}', f'{t["best"]:.2f}', f'{t["best_lr"]:g}', f'{t["own_lr"]:g}']
        told = f'{t["told"][0]:g} to {t["told"][1]:g}'
        rows.append([task, lrs, str(t['with_one_seed']), *numbers, f'{t["own_regret"]:.2f}', told])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def results_text(data: Mapping[str, Any]) -> str:
    """One row for each method: mean and worst regret on each task, and the share worse than the stock lr."""
    head = ['method', 'T_max', *data, 'beyond the table']
    rows = [head, ['---'] * len(head)]
    for name in next(iter(data.values()))['methods']:
        of_tasks = [of['methods'][name] for of in data.values()]
        cells = [f'{m["mean"]:.2f} ({m["worst"]:.1f}), {m["worse_than_own"]:.0%}' for m in of_tasks]
        cost = statistics.fmean(m['cost'] for m in of_tasks)
        rows.append([name, f'{cost:.1f}', *cells, f'{statistics.fmean(m["beyond"] for m in of_tasks):.0%}'])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--shuffles', type=int, default=200)
    parser.add_argument('--gp-shuffles', type=int, default=50, help='a Gaussian process is slow (default: %(default)s)')
    parser.add_argument('--tasks', nargs='+', default=list(RANGES), choices=list(RANGES))
    parser.add_argument('--out', type=Path, default=RESULT)
    args = parser.parse_args(argv)
    results = Results()
    data: dict[str, Any] = {}
    for task in args.tasks:
        table = read_table(results, task)
        methods = {}
        for name, summary in play_task(table, args.shuffles, args.gp_shuffles):
            methods[name] = summary
            print(task, name, summary, flush=True)
        data[task] = {'table': about(table), 'methods': methods}
        args.out.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
    print(f'{tables_text(data)}\n\n{results_text(data)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
