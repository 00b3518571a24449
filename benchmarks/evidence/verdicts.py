"""Six questions that the evidence is for, each answered by intervals.

The answer follows from the numbers by one rule: *yes* where every interval is on the claimed side, *no* where one is on
the other side, *in part* where some are on the claimed side and the others contain the value of no difference, and
*not seen* otherwise. That something is not worse is answered by *yes* where no interval is on the wrong side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats

from benchmarks.evidence.experiments import TUNED, marked
from benchmarks.evidence.lab import Results

Values = Sequence[float]


class Pair(NamedTuple):
    """Trainings of ours and of a rival with new seeds: where, their test values, and the experiment."""

    where: str
    ours: Values
    theirs: Values
    experiments: str


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval, and the value at which nothing differs."""

    value: float
    low: float
    high: float
    no_difference: float = 0.0

    @property
    def side(self) -> int:
        """1 where all of it is above the value of no difference, -1 where all of it is below, 0 otherwise."""
        return (self.low > self.no_difference) - (self.high < self.no_difference)

    def __str__(self) -> str:
        sign = '' if self.no_difference else '+'
        return f'{self.value:{sign}.2f} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]'


def difference(a: Values, b: Values) -> Interval:
    """Mean of ``a`` less mean of ``b``, by Welch's t."""
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return Interval(statistics.mean(a) - statistics.mean(b), float(low), float(high))


def ratio_of_spreads(a: Values, b: Values) -> Interval:
    """Standard deviation of ``a`` over that of ``b``, by the distribution of F."""
    ratio = statistics.variance(a) / statistics.variance(b)
    low, high = (ratio / stats.f.ppf(q, len(a) - 1, len(b) - 1) for q in (0.975, 0.025))
    return Interval(math.sqrt(ratio), math.sqrt(low), math.sqrt(high), no_difference=1.0)


def verdict(intervals: Sequence[Interval], claimed: int) -> str:
    """The answer, where the claim is that all intervals are on one side, or, for 0, that none is below."""
    if not claimed:
        return 'no' if any(interval.side < 0 for interval in intervals) else 'yes'
    sides = [interval.side * claimed for interval in intervals]
    if -1 in sides:
        return 'no'
    return 'yes' if all(sides) else 'in part' if any(sides) else 'not seen'


def verdicts_table(results: Results) -> str:
    """Every question with its intervals, numbers of trainings, answer and experiments."""
    rows = ['| question | where | difference or ratio, 95 % | n | answer | `run.py` |', '|---|---|---|---|---|---|']
    for question, claimed, compare, pairs in questions(results):
        measured = [pair for pair in pairs if min(len(pair.ours), len(pair.theirs)) > 1]
        intervals = [compare(pair.ours, pair.theirs) for pair in measured]
        answer = verdict(intervals, claimed)
        for pair, interval in zip(measured, intervals, strict=True):
            n = f'{len(pair.ours)}, {len(pair.theirs)}'
            rows.append(f'| {question} | {pair.where} | {interval} | {n} | {answer} | `{pair.experiments}` |')
            question = answer = ''
    return '\n'.join(rows)


def questions(results: Results) -> Iterator[tuple[str, int, Callable[[Values, Values], Interval], list[Pair]]]:
    """Each question, the side that it claims, how it is measured, and on what."""
    tuned, cheaper = [], []
    for task, (experiment, *groups) in TUNED.items():
        where = marked(task, task)
        ours, theirs = (results.values(experiment, f'{group}-test') for group in groups)
        tuned.append(Pair(where, ours, theirs, experiment))
        cost, other = (head['cost'] if (head := results.head(experiment, group)) else math.nan for group in groups)
        if cost < other / 2:
            cheaper.append(Pair(f'{where}, at {cost:g} T_max against {other:g}', ours, theirs, experiment))
    yield '(a) Is tuned FixNorm more accurate than tuned weight decay?', 1, difference, tuned
    yield '(b) Is it cheaper to tune? Accuracy at less than half the cost', 0, difference, cheaper
    spreads = '(c) Is its winner more stable over seeds? Standard deviation, over that of weight decay'
    yield spreads, -1, ratio_of_spreads, tuned
    rivals = {'wd': 'minus weight decay', 'wd-clip': 'minus weight decay with clipped gradients', 'lars': 'minus LARS'}
    angle = []
    for task in ('bccd', 'camvid'):
        for rival, words in rivals.items():
            ours, theirs = (results.values(f'rotation-{task}', f'{method}/test') for method in ('angle', rival))
            angle.append(Pair(f'{task}, {words}', ours, theirs, f'rotation-{task}'))
    yield '(d) Is the update by angle (per layer) better on detection and segmentation?', 1, difference, angle
    ours, theirs = (results.values('fig2-fit', f'{name}-test') for name in ('fixnorm', 'wn-fc'))
    bound = [Pair('fitted training set, minus the same without a bound', ours, theirs, 'fig2-fit')]
    yield '(e) Where the bound acts, does it help accuracy?', 1, difference, bound
    three = []
    for task, (experiment, _, bo) in TUNED.items():
        cost = head['cost'] if (head := results.head(experiment, bo)) else math.nan
        ours, theirs = results.values(f'lr-fit-{task}', 'angle-test'), results.values(experiment, f'{bo}-test')
        three.append(Pair(f'{task}, at 3 T_max against {cost:g}', ours, theirs, f'lr-fit-{task} {experiment}'))
    yield '(f) Are three trainings by angle as accurate as tuned weight decay?', 0, difference, three
