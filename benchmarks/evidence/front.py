"""The figure on top of README: what each method reaches on test data with new seeds, and what it cost to tune.

A method has a point as soon as its search and its trainings with new seeds are in ``results``. ``report.py`` draws it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from scipy import stats

from benchmarks.evidence import rotation
from benchmarks.evidence.experiments import TUNED
from benchmarks.evidence.lab import Results
from mmfixnorm.convert.angle import ANGLE
from mmfixnorm.plot.chart import Chart, Estimate, Panel

UNITS = {
    'residual': 'CIFAR-10 5k, residual (top-1, %)',
    'mobile': 'CIFAR-10 5k, mobile (top-1, %)',
    'digits': 'digits (top-1, %)',
    'bccd': 'blood cells, detection (mAP50, %)',
    'camvid': 'streets, segmentation (mIoU, %)',
    'deit': 'CIFAR-10 5k, DeiT (top-1, %)',
    'convnext': 'CIFAR-10 5k, ConvNeXt (top-1, %)',
}
#: Searches of a weight decay for SGD, whose result the scans of ``rotation`` take over and so have to pay for.
DECAYS = {task: (experiment, group) for task, (experiment, _, group) in TUNED.items()}
#: Entry of the legend: colour (one for a family) and marker.
STYLES = {
    'weight decay, not tuned': (1, 0),
    'weight decay, Bayesian search': (1, 1),
    'weight decay, 7 lrs at a searched decay': (1, 2),
    'the same, clipped gradients': (1, 3),
    'FixNorm, stock lr': (0, 0),
    'FixNorm, three trainings (LRFitSearch)': (0, 4),
    'FixNorm, UnimodalFixNormSearch': (0, 6),
    "FixNorm, alpha='auto', 5 lrs": (0, 5),
    'FixNorm, 7 lrs': (0, 2),
    'FixNorm, 7 lrs, clipped gradients': (0, 3),
    'FixNorm, Algorithm 4': (0, 1),
    f'by angle, {ANGLE:g}, not tuned': (2, 0),
    'by angle, three trainings (LRFitSearch)': (2, 4),
    'by angle, 7 lrs': (2, 2),
    'by angle per filter, 7 lrs': (2, 1),
    'by angle and SGD, 7 lrs': (2, 3),
    'SGD and weight decay 1e-4, 7 lrs': (5, 1),
    'SGD and weight decay 1e-4, clipped gradients': (5, 3),
    'AdamW': (4, 1),
    'AdamW, clipped gradients': (4, 0),
    'LARS': (4, 2),
    'LAMB': (4, 3),
    'SGDP': (6, 1),
    "Hyperball's form": (6, 3),
    'each weight its first norm': (7, 1),
    'equal norms': (7, 3),
}
#: What the scans of ``rotation`` are called here. Switches that no other method is known by are on docs/rotation.md.
SCANS = {
    'angle': 'by angle, 7 lrs',
    'angle-other-lr': 'by angle, 7 lrs',
    'angle-filter': 'by angle per filter, 7 lrs',
    'angle-sgd': 'by angle and SGD, 7 lrs',
    'fixnorm': 'FixNorm, 7 lrs',
    'fixnorm-clip': 'FixNorm, 7 lrs, clipped gradients',
    'wd': 'weight decay, 7 lrs at a searched decay',
    'wd-clip': 'the same, clipped gradients',
    'adamw': 'AdamW',
    'adamw-clip': 'AdamW, clipped gradients',
    'sgd': 'SGD and weight decay 1e-4, 7 lrs',
    'sgd-clip': 'SGD and weight decay 1e-4, clipped gradients',
    'lars': 'LARS',
    'lamb': 'LAMB',
    'hyperball': "Hyperball's form",
    'per-layer': 'each weight its first norm',
}
# Ranges of the angle, of Hyperball's form and of LAMB are those of every task.
_ONE_RANGE = ('angle', 'angle-other-lr', 'angle-filter', 'angle-sgd', 'hyperball', 'lamb')
_BESIDE = 0.5  # T_max between points of equal cost, which would cover each other


@dataclass(frozen=True)
class Tuned:
    """A method on a task.

    Attributes:
        name: Entry of the legend.
        test: Experiment and group of the trainings with new seeds.
        paid: Experiment and group of each search before them.
        own_range: Whether a range of learning rates was chosen for this task alone.
    """

    name: str
    test: tuple[str, str]
    paid: tuple[tuple[str, str], ...] = ()
    own_range: bool = False


def methods(results: Results, task: str) -> Iterator[Tuned]:
    """Every method that is or may be measured on a task."""
    table1, transfer, fit, scans = f'table1-{task}', f'transfer-{task}', f'lr-fit-{task}', f'rotation-{task}'

    def searched(name: str, experiment: str, group: str, *, own_range: bool = False) -> Tuned:
        return Tuned(name, (experiment, f'{group}-test'), ((experiment, group),), own_range)

    yield Tuned('weight decay, not tuned', (table1, 'reference-test'))
    yield Tuned('FixNorm, stock lr', (fit, 'stock-test'))
    yield Tuned(f'by angle, {ANGLE:g}, not tuned', rotation.where_default(results, task))
    yield Tuned('FixNorm, three trainings (LRFitSearch)', (fit, 'test'), ((fit, 'search'),))
    yield Tuned('by angle, three trainings (LRFitSearch)', (fit, 'angle-test'), ((fit, 'angle-search'),))
    for ending, lower in (('', False), ('-low', True)):
        yield searched('weight decay, Bayesian search', table1, f'bo{ending}', own_range=lower)
        yield searched('FixNorm, Algorithm 4', table1, f'fixnorm{ending}', own_range=lower)
    yield searched('FixNorm, UnimodalFixNormSearch', table1, 'unimodal', own_range=task == 'mobile')
    given = task != 'digits'
    about = rotation.TASKS[task]
    decay = 'AdamW' if about.recipe == 'adamw' else 'weight decay, Bayesian search'
    yield searched(decay, transfer, 'bo', own_range=given)
    yield searched('FixNorm, Algorithm 4', transfer, 'fixnorm', own_range=given)
    if task == 'residual':
        yield searched("FixNorm, alpha='auto', 5 lrs", 'beyond', 'auto')
        yield searched('equal norms', 'beyond', 'equal')
        yield searched('SGDP', 'peers', 'sgdp')
        yield searched('AdamW', 'peers', 'adamw')
        yield searched('each weight its first norm', 'peers', 'per-layer')
    for method, name in SCANS.items():
        if method not in {**about.methods, **about.switches} or (method == 'angle' != about.converted):
            continue
        scan = (scans, f'{method}/seed{rotation.SEEDS[0]}')
        paid = (scan, DECAYS[task]) if method in ('wd', 'wd-clip') else (scan,)
        yield Tuned(name, (scans, f'{method}/test'), paid, method not in _ONE_RANGE)


def estimate(results: Results, of: Tuned) -> Estimate | None:
    """Cost, mean and the 95 % interval of the mean by Student's t; None where a part has not been run."""
    values = results.values(*of.test)
    heads = [results.head(*place) for place in of.paid]
    if len(values) < 2 or None in heads:
        return None
    mean = statistics.mean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    cost = sum(head['cost'] for head in heads if head)
    return Estimate(of.name, cost, mean, mean - half, mean + half, *STYLES[of.name], filled=not of.own_range)


def panel(results: Results, task: str) -> tuple[Panel, list[str]] | None:
    """The points of a task, and a sentence about each; None where fewer than two methods have been measured."""
    found = [(of, point) for of in methods(results, task) if (point := estimate(results, of))]
    if len(found) < 2:
        return None
    notes = []
    for of, point in found:
        runs = results.runs(*of.test)
        diverged = len(runs) - len(results.values(*of.test))
        notes.append(
            f'{task}: {point.name}: {point.y:.2f} [{point.low:.2f}, {point.high:.2f}] at {point.x:.4g} T_max, '
            f'{len(runs)} seeds' + (f', {diverged} diverged' if diverged else '')
        )
    points = [point for _, point in found]
    shown = visible([point.y for point in points], statistics.median(point.high - point.y for point in points))
    return Panel('cost of tuning (T_max)', '', [], UNITS[task], estimates=side_by_side(points), y_range=shown), notes


def visible(means: list[float], half: float = 0.0) -> tuple[float, float]:
    """The range of a panel: what lies far below the others stands at its lower end.

    Far is five times from the best to the median, or to the end of an interval of the usual length if that is more.
    """
    best = max(means)
    far = 5 * max(best - statistics.median(means), half)
    lowest = min(mean for mean in means if mean >= best - far)
    margin = 0.35 * (best - lowest)
    return lowest - margin, best + margin


def side_by_side(points: list[Estimate]) -> list[Estimate]:
    """Move points of nearly equal cost apart."""
    moved: list[Estimate] = []
    for point in sorted(points, key=lambda of: of.x):
        x = max(point.x, moved[-1].x + _BESIDE) if moved else point.x
        moved.append(Estimate(**{**vars(point), 'x': x}))
    return moved


def chart(results: Results) -> Chart | None:
    """The figure; None without results."""
    found = [of for task in UNITS if (of := panel(results, task))]
    if not found:
        return None
    notes = [note for _, of_task in found for note in of_task]
    title = 'Test accuracy with new seeds against the cost of tuning; mean and 95 % interval'
    return Chart(title, [of for of, _ in found], 'grid', notes, list(STYLES))
