"""Play the searches over the learning rate alone on what real trainings gave, from the raw lines of the evidence.

Each task of ``benchmarks/evidence`` becomes two tables, of the paper's update and of that by angle: seven learning
rates a factor of 2 apart, trained at full length and at a fifth of it with each of three seeds, on validation data. A
training that a search asks for gives what one of the seeds gave, drawn by the shuffle. Between two learning rates the
values are interpolated on a log scale; what is asked for beyond them is trained at the end of the table, and the share
of such trainings is told::

    python benchmarks/tuners/lr_tables.py --shuffles 200 --gp-shuffles 50

A search is judged by the mean over the seeds at the learning rate that it chose. What was played is in
``results/lr_tables.json``; ``benchmarks/evidence/report.py`` writes the tables of ``docs/tuning.md`` from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
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
from benchmarks.evidence.lab import Results, read_lines
from benchmarks.evidence.lr_fit import own_lr
from benchmarks.evidence.rotation import SEEDS
from benchmarks.tuners.replay import Played, play
from benchmarks.tuners.replay_report import Curve, regrets
from benchmarks.tuners.surfaces import Surface
from mmfixnorm.search._utils.space import Range
from mmfixnorm.search.methods import METHODS, bayesian
from mmfixnorm.search.methods.base import Spec
from mmfixnorm.search.methods.bayesian import BayesianSearch
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.methods.grid import GridSearch
from mmfixnorm.search.methods.halving import SuccessiveHalvingSearch
from mmfixnorm.search.methods.lr_fit import LRFitSearch
from mmfixnorm.search.methods.sampled import RandomSearch, SampledSearch
from mmfixnorm.search.settings import ANGLE_RANGE, SearchSettings

HERE = Path(__file__).parent
RESULT = HERE / 'results/lr_tables.json'
RAMPS = HERE.parent / 'lr_range_cpu_202611.jsonl'
BUDGETS = (3, 5, 11)
UPDATES = ('fixnorm', 'angle')
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
    """One task and update over its learning rates.

    Attributes:
        task: Its name.
        update: ``fixnorm``, the paper's, or ``angle``.
        surface: Full length and a fifth of it, with one alpha.
    """

    task: str
    update: str
    surface: Surface

    @property
    def own_lr(self) -> float:
        """What the config has that no one has tuned: the stock recipe's learning rate, or the converter's angle."""
        return own_lr(self.task, self.update)

    @property
    def told(self) -> tuple[float, float]:
        """The range that searches are told."""
        return ANGLE_RANGE if self.update == 'angle' else RANGES[self.task]

    @cached_property
    def best(self) -> float:
        """The best mean of the table at full length."""
        return self.surface.best(RULE)[0]

    def clamped(self, lr: float) -> float:
        """Return the nearest learning rate that the table reaches."""
        return min(max(lr, self.surface.lrs[0]), self.surface.lrs[-1])

    def drawn(self, spec: Spec, shuffle: int) -> float | None:
        """Return what a training gives, with the seed that a shuffle draws for it; None if it diverges."""
        draw = np.random.default_rng([shuffle, zlib.crc32(spec.key.encode())])
        seed = int(draw.integers(self.surface.num_seeds))
        return self.surface.answer(self.clamped(spec.point.lr), _OWN_ALPHA, spec.fraction, seed)

    def judged(self, lr: float) -> float:
        """Return the mean over the seeds at a learning rate; one that diverges counts as the worst of the table."""
        return self.surface.mean(self.clamped(lr), _OWN_ALPHA, RULE)


def read_table(results: Results, task: str, update: str) -> LRTable:
    """Make a table from the raw lines, of all seeds with all of its trainings.

    Raises:
        ValueError: There is no such seed.
    """
    groups = {
        1.0: (f'rotation-{task}', f'{update}/seed'),
        _SHORT: ('rotation-short', f'{task}/{update}/x{_SHORT:g}/seed'),
    }
    found = {
        (fraction, seed): {line['lr']: line['value'] for line in results.runs(experiment, f'{group}{seed}')}
        for fraction, (experiment, group) in groups.items()
        for seed in SEEDS
    }
    whole = [seed for seed in SEEDS if found[1.0, seed] and found[1.0, seed].keys() == found[_SHORT, seed].keys()]
    if not whole:
        raise ValueError(f'{task}, {update}: no seed was trained at both lengths; run rotation-{task} rotation-short')
    lrs = tuple(sorted(found[1.0, whole[0]]))
    values = {
        fraction: np.array([[found[fraction, seed][lr] for lr in lrs] for seed in whole], dtype=float)[:, :, None]
        for fraction in groups
    }
    return LRTable(task, update, Surface(lrs, (_OWN_ALPHA,), values))


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


def entries(table: LRTable) -> dict[str, Entry]:
    """List the methods by the names of their rows."""
    told: dict[str, Any] = dict(lr_range=table.told)
    fit: dict[str, Any] = dict(own_lr=table.own_lr, alphas=(_OWN_ALPHA,))
    grid: dict[str, Any] = dict(alphas=(_OWN_ALPHA,))
    ramps = [line for line in read_lines(RAMPS) if line['task'] == table.task and table.update == 'fixnorm']
    costs = tuple(ramp['part'] for ramp in ramps)
    found = {"the config's own": Entry((GridSearch(lrs=(table.own_lr,), **grid),))}
    if ramps:
        ends = tuple(GridSearch(lrs=(ramp['end'] / 10,), **grid) for ramp in ramps)
        found["a tenth of the ramp's end"] = Entry(ends, costs)
    for n in BUDGETS:
        name = f'`LRFitSearch`, {n} trainings'
        settings = LRFitSearch(num_trainings=n, **fit, **told)
        if ramps:
            measured = tuple(dataclasses.replace(settings, lr_range=tuple(ramp['lr_range'])) for ramp in ramps)
            found[f"{name}, `lr_range='auto'`"] = Entry(measured, costs)
        found[name] = Entry((settings,))
    for budget in (2, 3, 5):
        settings = LRFitSearch(num_trainings=max(BUDGETS), **fit)
        left = [(tuple(ramp['lr_range']), budget - ramp['part']) for ramp in ramps]
        if ramps:
            kept = tuple(dataclasses.replace(settings, lr_range=range_, budget=rest) for range_, rest in left)
            found[f"`LRFitSearch`, budget {budget}, `lr_range='auto'`"] = Entry(kept, costs)
    for n in (3, 5, 6):
        settings4 = FixNormSearch(alphas=(_OWN_ALPHA,), budget=n, **told)
        found[f'Algorithm 4 over lr, {"whole" if n == 6 else f"budget {n}"}'] = Entry((settings4,))
    sampled: dict[str, Any] = dict(alpha_range=(_OWN_ALPHA, 2 * _OWN_ALPHA), **told)
    halving = SuccessiveHalvingSearch(num_trials=9, reduction_factor=3, schedule_fractions=(_SHORT, 1.0), **sampled)
    found['halving, the best 3 of 9 short ones'] = Entry((halving,))
    sampled['num_trials'] = max(BUDGETS)
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
    beyond = statistics.fmean(table.clamped(s.point.lr) != s.point.lr for s in specs)
    own = table.judged(table.own_lr)
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
    for name, entry in entries(table).items():
        outcomes = []
        for shuffle in range(gp_shuffles if name.startswith('BO, GP') else shuffles):
            settings, ramp = entry.settings[shuffle % len(entry.settings)], entry.ramps[shuffle % len(entry.ramps)]
            if (settings, shuffle) not in kept:
                kept[settings, shuffle] = played(table, settings, shuffle)
            outcomes.append(outcome(table, kept[settings, shuffle], ramp, entry.at))
        yield name, summarise(outcomes)


def about(table: LRTable) -> dict[str, Any]:
    """What is told of a table beside the results."""
    best, best_lr, _ = table.surface.best(RULE)
    at = table.surface.lrs.index(best_lr)
    full = table.surface.values[1.0][:, at, 0]
    short = table.surface.lrs[int(np.nanargmax(table.surface.values[_SHORT].mean(axis=0)[:, 0]))]
    return {
        'short_best_lr': short,
        'short_regret': round(best - table.judged(short), 3),
        'lrs': list(table.surface.lrs),
        'seeds': table.surface.num_seeds,
        'best': round(best, 3),
        'best_lr': best_lr,
        'sd': round(float(full.std(ddof=1)), 3) if len(full) > 1 else None,
        'own_lr': table.own_lr,
        'own_regret': round(best - table.judged(table.own_lr), 3),
        'told': list(table.told),
    }


def tables_text(data: Mapping[str, Any]) -> str:
    """One row for each table: what it is made of."""
    head = ['task', 'update', 'learning rates', 'seeds', 'best', 'at lr', "the config's own lr", 'its regret', 'told']
    rows = [head, ['---'] * len(head)]
    for update, of_tasks in data.items():
        for task, of in of_tasks.items():
            t = of['table']
            lrs = f'{t["lrs"][0]:g} to {t["lrs"][-1]:g}'
            spread = '' if t['sd'] is None else f' (sd {t["sd"]:.2f})'
            numbers = [f'{t["best"]:.2f}{spread}', f'{t["best_lr"]:g}', f'{t["own_lr"]:g}', f'{t["own_regret"]:.2f}']
            rows.append([task, update, lrs, str(t['seeds']), *numbers, f'{t["told"][0]:g} to {t["told"][1]:g}'])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def short_text(data: Mapping[str, Any]) -> str:
    """One row for each table: what the best learning rate of a fifth of the schedule is worth at full length."""
    head = ['task', 'update', 'best lr in a fifth', 'best lr', 'lost at full length by the first']
    rows = [head, ['---'] * len(head)]
    for update, of_tasks in data.items():
        for task, of in of_tasks.items():
            t = of['table']
            rows.append([task, update, f'{t["short_best_lr"]:g}', f'{t["best_lr"]:g}', f'{t["short_regret"]:.2f}'])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def results_text(data: Mapping[str, Any]) -> str:
    """One row for each method of one update: mean and worst regret on each task, and the share worse than no search."""
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
    parser.add_argument('--updates', nargs='+', default=list(UPDATES), choices=UPDATES)
    parser.add_argument('--out', type=Path, default=RESULT, help='tables of other tasks and updates in it stay')
    args = parser.parse_args(argv)
    results = Results()
    data: dict[str, Any] = json.loads(args.out.read_text(encoding='utf-8')) if args.out.exists() else {}
    for update in args.updates:
        for task in args.tasks:
            table = read_table(results, task, update)
            methods = {}
            for name, summary in play_task(table, args.shuffles, args.gp_shuffles):
                methods[name] = summary
                print(task, update, name, summary, flush=True)
            data.setdefault(update, {})[task] = {'table': about(table), 'methods': methods}
            args.out.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
    print(tables_text(data), *map(results_text, data.values()), sep='\n\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
