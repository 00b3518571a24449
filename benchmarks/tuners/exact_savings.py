"""What Algorithm 4 costs where trainings that are the same are not repeated, on recorded searches.

The planner and :class:`~mmfixnorm.search.record.same_training.KnownTrainings`, which says which training is another
one, are those of a real search; trainings are looked up in ``benchmarks/evidence/results``, whose searches trained
everything::

    python benchmarks/tuners/exact_savings.py

Prints the table of ``docs/tuning.md``, which ``benchmarks/evidence/report.py`` writes there. The largest ``|g|`` was
not recorded: it lies below the smallest of the alphas that have one validation curve, and at the bound of the others.
What trainings share until ``g`` meets a bound (``search.fork``) needs the moment, so it is not in these costs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.evidence.lab import Lines, Results
from mmfixnorm.search.methods.base import Best, FinishedTraining, Spec
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.planner import Done, Run, plan
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.same_training import KnownTrainings, result_of
from mmfixnorm.search.record.study import Attempt
from mmfixnorm.search.trial.folder import TrialResult

#: The searches by Algorithm 4: experiment, group, and the range of the learning rate.
SEARCHES = (
    ('table1-residual', 'fixnorm', (0.2, 3.2)),
    ('table1-mobile', 'fixnorm', (0.2, 3.2)),
    ('table1-mobile', 'fixnorm-low', (0.05, 0.8)),
    ('transfer-digits', 'fixnorm', (0.2, 3.2)),
    ('transfer-bccd', 'fixnorm', (0.01, 0.2)),
    ('transfer-camvid', 'fixnorm', (0.05, 1.0)),
)


class Replayed(NamedTuple):
    """A search that was played: its winner, the value of each training, and what the trained ones cost, in T_max."""

    best: Best
    values: dict[str, float | None]
    cost: float
    trained: list[str]


def replay(lines: Lines, lr_range: tuple[float, float], *, reuse: bool) -> Replayed:
    """Play Algorithm 4 on the lines of a recorded search, one training at a time.

    Raises:
        ValueError: It asks for a training that was not recorded, or ends without a winner.
    """
    settings = FixNormSearch(lr_range=lr_range, reuse_trainings=reuse)
    problem = SearchProblem('recorded', Config(dict(train_cfg=dict(max_epochs=1))), {}, settings, Path())
    recorded = {line['key']: line for line in lines}
    known = KnownTrainings(problem, [])
    ended: list[Attempt] = []
    while True:
        finished = [FinishedTraining(a.spec.key, a.spec.point, a.result.value, cost=a.spent) for a in ended]
        step = plan(settings, finished)
        if isinstance(step, Done):
            values = {a.spec.key: a.result.value for a in ended}
            trained = [a.spec.key for a in ended if not a.result.same_as]
            return Replayed(step.best, values, round(sum(a.spent for a in ended), 9), trained)
        if not isinstance(step, Run):
            raise ValueError(f'the search ends with {step}')
        same = [(spec, of) for spec in step.specs if (of := known.same_as(spec)) is not None]
        if same:
            spec, of = same[0]
            result = result_of(of, spec, attempt=1)
        else:
            spec = known.in_order(step.specs)[0]
            result = recorded_result(spec, recorded)
        ended.append(Attempt(spec, result, spec.fraction, datetime.min))
        known.add(ended[-1])


def recorded_result(spec: Spec, recorded: dict[str, dict[str, Any]]) -> TrialResult:
    """Return what the training with this key gave.

    Raises:
        ValueError: It is not recorded, or was trained at another point.
    """
    line = recorded.get(spec.key)
    if line is None or (line['lr'], line['alpha'], line['fraction']) != (
        spec.point.lr,
        spec.point.alpha,
        spec.fraction,
    ):
        raise ValueError(f'{spec} was not recorded; the line of this key is {line}')
    outcome = 'diverged' if line['value'] is None else 'done'
    return TrialResult(spec.key, 1, '', outcome, line['value'], largest_scale=largest_scale(line, recorded.values()))


def largest_scale(line: dict[str, Any], lines: Any) -> float | None:
    """Return a largest scale that fits the recorded curves; None if no other alpha was trained there."""
    beside = [other for other in lines if all(other[key] == line[key] for key in ('lr', 'fraction', 'seed'))]
    if len(beside) < 2:
        return None
    alphas = sorted(other['alpha'] for other in beside)
    unbounded = next(other for other in beside if other['alpha'] == alphas[-1])
    free = [other['alpha'] for other in beside if other['curve'] == unbounded['curve']]
    if line['curve'] != unbounded['curve'] or len(free) == 1:
        return float(line['alpha'])
    met = [alpha for alpha in alphas if alpha < min(free)]
    return math.sqrt(met[-1] * min(free)) if met else min(free) / 2


def replay_all(results: Results) -> Iterator[tuple[str, Replayed, Replayed]]:
    """Yield the name of each search, and how it goes without and with the savings."""
    for experiment, group, lr_range in SEARCHES:
        lines = results.runs(experiment, group)
        yield (
            f'{experiment}, `{group}`',
            replay(lines, lr_range, reuse=False),
            replay(lines, lr_range, reuse=True),
        )


def table(results: Results) -> str:
    """One row for each search, and the mean."""
    head = ['search', 'T_max, everything trained', 'T_max', 'over alpha', 'winner', 'value', 'the same values']
    rows = [head, ['---'] * len(head)]
    costs: list[tuple[float, float]] = []
    for name, whole, saving in replay_all(results):
        costs.append((whole.cost, saving.cost))
        alphas = f'{sum(key.startswith("alpha") for key in saving.trained)} of 5'
        same = whole.best == saving.best and whole.values == saving.values
        winner = str(saving.best.point)
        row = [name, f'{whole.cost:g}', f'{saving.cost:g}', alphas, winner, f'{saving.best.value:.2f}']
        rows.append([*row, 'yes' if same else 'no'])
    rows.append(['mean', *(f'{mean(of):.2f}' for of in zip(*costs, strict=True)), '', '', '', ''])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == '__main__':
    print(table(Results()))
