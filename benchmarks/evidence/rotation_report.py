"""The tables and figures of docs/rotation.md, and of the scans on docs/fine_tuning.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.evidence import rotation, verdicts
from benchmarks.evidence.cells import difference, spread
from benchmarks.evidence.experiments import TUNED
from benchmarks.evidence.lab import Lines, Results
from mmfixnorm.convert.angle import ANGLE
from mmfixnorm.plot.chart import Chart, Estimate, Line, Panel


def summary_table(results: Results) -> str:
    """The angle, tuned by seven learning rates and not tuned, beside the best of its rivals on each task."""
    head = ['task', f'{ANGLE:g}, not tuned', '7 lrs', 'best rival, 7 lrs', '7 lrs minus that, 95 %']
    rows = [head, ['---'] * len(head)]
    for task, about in rotation.ALL_TASKS.items():
        scanned, ours = f'rotation-{task}', f'{about.converted}/test'
        values = results.values(scanned, ours)
        tested = {of: results.values(scanned, f'{of}/test') for of in about.methods if not of.startswith('angle')}
        rivals = {of: values for of, values in tested.items() if len(values) > 1}
        if len(values) < 2 or not rivals:
            continue  # not trained yet
        best = max(rivals, key=lambda of: statistics.mean(rivals[of]))
        untuned = results.values(*rotation.where_default(results, task))
        angle = results.head(scanned, ours)
        cells = [
            f'{spread(values)} at {angle["point"][0]:g}' if angle else '',
            f'{best}: {spread(rivals[best])}',
        ]
        mark = ' †' if task in rotation.NETWORKS else ''
        gain = difference(values, rivals[best])
        rows.append([f'{task}{mark}', spread(untuned) if untuned else '', *cells, gain])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def scan_table(results: Results, tasks: Mapping[str, rotation.Task], experiments: str) -> str:
    """The learning rate of each method and task: seven values, the best, and how wide the top is.

    Args:
        results (Results): The raw lines.
        tasks (Mapping): By name.
        experiments (str): What the names of their experiments begin with.
    """
    head = ['task', 'method', 'seeds', 'learning rates', *map(str, range(1, 8)), 'best', 'within 1 point']
    rows = [head, ['---'] * len(head)]
    for task, about in tasks.items():
        for method in (*about.methods, *about.switches):
            of_seeds = [results.runs(f'{experiments}-{task}', f'{method}/seed{seed}') for seed in rotation.SEEDS]
            of_seeds = [runs for runs in of_seeds if runs]
            if of_seeds:
                rows.append([task, method, str(len(of_seeds)), *scan_cells(of_seeds)])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def scan_cells(of_seeds: Sequence[Lines]) -> list[str]:
    """The ends of the range, the mean of the seeds at each learning rate, the best, and the width of the top."""
    means = rotation.means_of(of_seeds)
    best, low, high = rotation.top_of(of_seeds)
    lrs = list(means)
    values = ['diverged' if mean == -math.inf else f'{mean:.1f}' for mean in means.values()]
    top = lrs.index(best)
    values[top] = f'**{values[top]}**'
    edge = ' (edge)' if top in (0, len(lrs) - 1) else ''
    return [f'{lrs[0]:g} to {lrs[-1]:g}', *values, f'{best:g}{edge}', f'x {high / low:g}']


def bests_table(results: Results) -> str:
    """The best learning rate of each method that three seeds have scanned, and how far apart they are."""
    convolutional = [task for task, about in rotation.TASKS.items() if about.recipe == 'wd']
    others = [task for task in rotation.TASKS if task not in convolutional]
    head = ['method', *convolutional, 'largest / smallest', *others]
    rows = [head, ['---'] * len(head)]
    for method in rotation.METHODS:
        bests = {}
        for task in rotation.TASKS:
            of_seeds = [results.runs(f'rotation-{task}', f'{method}/seed{seed}') for seed in rotation.SEEDS]
            if all(of_seeds):
                bests[task] = rotation.top_of(of_seeds)[0], scan_cells(of_seeds)[-2]
        if not all(task in bests for task in convolutional):
            continue  # not trained yet
        lrs = [bests[task][0] for task in convolutional]
        cells = [bests[task][1] for task in convolutional] + [f'x {max(lrs) / min(lrs):g}']
        rows.append([method, *cells, *(bests[task][1] if task in bests else '' for task in others)])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def law_table(results: Results) -> str:
    """The best learning rate of the residual network where one thing of its training is changed."""
    head = ['changed', 'method', 'learning rates', *map(str, range(1, 6)), 'best', 'within 1 point', 'moved by']
    rows = [head, ['---'] * len(head)]
    for method, lrs in rotation.BESIDE.items():
        unchanged = results.runs('rotation-residual', f'{method}/seed{rotation.SEEDS[0]}')
        around = [run for run in unchanged if run['lr'] in lrs]
        groups = {'nothing': around, **{v: results.runs('rotation-law', f'{v}/{method}') for v in rotation.VARIANTS}}
        for variant, runs in groups.items():
            if runs:
                best, before = (max(of, key=rotation.value_of)['lr'] for of in (runs, around))
                rows.append([variant, method, *scan_cells([runs]), f'x {best / before:g}'])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def finals_table(results: Results, tasks: Mapping[str, rotation.Task], experiments: str, baseline: str) -> str:
    """What each method chose with one seed, on test data with others, and its difference to one of them.

    Args:
        results (Results): The raw lines.
        tasks (Mapping): By name.
        experiments (str): What the names of their experiments begin with.
        baseline (str): The method that the others are compared with.
    """
    head = ['task', 'method', 'lr', 'validation', 'test, new seeds', f'minus {baseline}, 95 %']
    rows = [head, ['---'] * len(head)]
    for task, about in tasks.items():
        name = f'{experiments}-{task}'
        against = results.values(name, f'{baseline}/test')
        for method in (*about.methods, *about.switches):
            final = results.head(name, f'{method}/test')
            searched = results.head(name, f'{method}/seed{rotation.SEEDS[0]}')
            if final is None or searched is None:
                continue  # not trained yet
            values = results.values(name, f'{method}/test')
            diverged = len(results.runs(name, f'{method}/test')) - len(values)
            test = spread(values) + (f', {diverged} diverged' if diverged and values else '')
            less = '' if method == baseline else difference(values, against)
            rows.append([task, method, f'{final["point"][0]:g}', f'{searched["value"]:.1f}', test, less])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def longer_table(results: Results) -> str:
    """Detection and segmentation in longer trainings: what each method chose of three learning rates, on test data."""
    head = ['task', 'length', 'method', 'lr', 'test, new seeds', 'n', 'minus angle, 95 %']
    rows = [head, ['---'] * len(head)]
    for task in rotation.LONGER_TASKS:
        for times in (1, *rotation.LONGER):
            name, ending = (f'rotation-{task}', '/test') if times == 1 else ('rotation-longer', f'/x{times}/test')
            prefix = '' if times == 1 else f'{task}/'
            against = results.values(name, f'{prefix}angle{ending}')
            for method in rotation.LONGER_METHODS:
                group = f'{prefix}{method}{ending}'
                final, values = results.head(name, group), results.values(name, group)
                if final is None or results.head('rotation-longer', f'{task}/{method}/x3/test') is None:
                    continue  # not trained yet, or at one length alone
                less = '' if method == 'angle' else difference(values, against)
                lr = f'{final["point"][0]:g}'
                rows.append([task, f'x {times}', method, lr, spread(values), str(len(values)), less])
    if len(rows) == 2:
        return '*Not run yet:* `python benchmarks/evidence/run.py rotation-longer`.'
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def clip_table(results: Results) -> str:
    """Gradients clipped at several norms: the best learning rate at each, and the best norm on test data."""
    rows = []
    for task, about in rotation.TASKS.items():
        for method in rotation.CLIPPED[about.recipe]:
            place = ('rotation-clip', f'{task}/{method}')
            others = {rotation.clips_at(about, of): of for of in (f'{method}-clip', method)}
            rows += _swept_rows(results, task, method, place, rotation.CLIP_NORMS[about.recipe], others)
    return _swept_text('clipped at', rows)


def raised_table(results: Results) -> str:
    """Weight decay with a higher learning rate of biases and norm layers, beside itself as it is."""
    rows = []
    for task, method in rotation.RAISED.items():
        place, others = ('rotation-raised', f'{task}/{method.split("-")[0]}'), {1.0: method}
        rows += _swept_rows(results, task, method, place, rotation.RAISED_BY[task], others)
    return _swept_text('raised by', rows)


def others_table(results: Results) -> str:
    """The best angle of each task with other learning rates for what is outside the set: means of three seeds."""
    factors = sorted({1.0, *(factor for of in rotation.OTHER_FACTORS.values() for factor in of)})
    head = ['task', 'angle', '`other_lr`', *(f'x {factor:g}' for factor in factors)]
    rows = [head, ['---'] * len(head)]
    for task, about in rotation.TASKS.items():
        scans = rotation.angle_scans(results, task)
        first = f'seed{rotation.SEEDS[0]}'
        if not any(results.runs('rotation-others', f'{task}/{factor:g}/{first}') for factor in factors):
            continue  # not run yet
        angle, _, _ = rotation.top_of(scans)
        cells = []
        for factor in factors:
            runs = [
                run
                for seed, own in zip(rotation.SEEDS, scans, strict=True)
                for run in (own if factor == 1 else results.runs('rotation-others', f'{task}/{factor:g}/seed{seed}'))
                if run['lr'] == angle
            ]
            values = [run['value'] for run in runs if run['value'] is not None]
            cells.append(spread(values) if values else '')
        rows.append([task, f'{angle:g}', f'{rotation.OTHER_LR[about.recipe]:g}', *cells])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def decay_table(results: Results) -> str:
    """Weight decay beyond the range of its search, beside the decay that this has found."""
    rows = []
    for task, decays in rotation.HIGHER_DECAYS.items():
        place, others = ('rotation-decay', f'{task}/wd'), {rotation.TASKS[task].decay: 'wd'}
        rows += _swept_rows(results, task, 'wd', place, decays, others)
    return _swept_text('decay', rows)


def _swept_text(column: str, rows: Sequence[Sequence[str]]) -> str:
    head = ['task', 'method', column, 'lr', 'validation', 'test, new seeds', 'minus angle, 95 %']
    return '\n'.join(f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows))


def _swept_rows(
    results: Results,
    task: str,
    method: str,
    place: tuple[str, str],
    values: Sequence[float],
    others: Mapping[float, str],
) -> list[list[str]]:
    """A row for each value of something, and for its usual one: the best learning rate; the best of all on test data.

    Args:
        results (Results): The raw lines.
        task (str): Its name.
        method (str): What the rows are called.
        place (tuple[str, str]): Experiment, and what its groups begin with.
        values (Sequence[float]): What was swept.
        others (Mapping[float, str]): Values that the task's own scans have, and the methods of these.
    """
    experiment, group = place
    own, first = f'rotation-{task}', f'/seed{rotation.SEEDS[0]}'
    angle = results.values(own, 'angle/test')
    found = {
        value: results.runs(experiment, f'{group}/{value:g}') + results.runs(experiment, f'{group}/{value:g}/higher')
        for value in values
    }
    best = {value: max(runs, key=rotation.value_of) for value, runs in found.items() if runs}
    if not best:
        return []  # not run yet
    tested = {value: (experiment, f'{group}/{value:g}/test') for value in best}  # chosen before more were tried
    tested[max(best, key=lambda value: rotation.value_of(best[value]))] = (experiment, f'{group}/test')
    for value, scanned in others.items():
        if runs := results.runs(own, f'{scanned}{first}'):
            found[value], best[value] = runs, max(runs, key=rotation.value_of)
            tested[value] = (own, f'{scanned}/test')
    rows = []
    for value, run in sorted(best.items()):
        lrs = [of['lr'] for of in found[value]]
        edge = ' (edge)' if run['lr'] in (min(lrs), max(lrs)) else ''
        accuracy = results.values(*tested[value]) if value in tested else []
        test = [spread(accuracy), difference(accuracy, angle) if angle else ''] if accuracy else ['', '']
        rows.append([task, method, f'{value:g}', f'{run["lr"]:g}{edge}', f'{run["value"]:.1f}', *test])
    return rows


def default_table(results: Results) -> str:
    """The angle that nobody has tuned on test data, beside weight decay as the better of its searches has tuned it."""
    head = ['task', f'angle {ANGLE:g}, not tuned', 'weight decay, tuned', 'at T_max', 'difference, 95 %']
    head += ['weight decay, clipped gradients, 7 lrs', 'difference, 95 %']
    rows = [head, ['---'] * len(head)]
    for task in {**dict.fromkeys(TUNED), **rotation.ALL_TASKS}:
        values = results.values(*rotation.where_default(results, task))
        rival, paid = tuned_decay(results, task)
        clipped = results.values(f'rotation-{task}', f'{rotation.ALL_TASKS[task].recipe}-clip/test')
        if not values or not (rival or clipped):
            continue  # not trained yet
        rows.append([task, spread(values)])
        rows[-1] += [spread(rival), f'{paid:g}', difference(values, rival)] if rival else ['', '', '']
        rows[-1] += [spread(clipped), difference(values, clipped)] if clipped else ['', '']
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def tuned_decay(results: Results, task: str) -> tuple[list[float], float]:
    """Weight decay as the better of its two searches has tuned it: on test data, and what they cost in T_max.

    These are Bayesian optimisation of learning rate and weight decay, and seven learning rates at the decay that it
    found. On the networks that are trained by AdamW both are of AdamW.
    """
    experiment, _, bo = TUNED.get(task, (f'transfer-{task}', '', 'bo'))
    scanned, method = f'rotation-{task}', rotation.ALL_TASKS[task].recipe
    rivals = []
    paid = 0.0
    for at, group, test in ((experiment, bo, f'{bo}-test'), (scanned, f'{method}/seed0', f'{method}/test')):
        search, values = results.head(at, group), results.values(at, test)
        if search and values:
            paid = search['cost'] + (paid if task in TUNED else 0.0)
            rivals.append((values, paid))
    return max(rivals, key=lambda rival: statistics.mean(rival[0]), default=([], 0.0))


#: Panels of the figure of scans: a method, the title of its axis, and the ends of it, the same number of powers of ten.
_SCANNED = {
    'angle': ('angle (rad)', (4e-4, 1.0)),
    'fixnorm': ("FixNorm's learning rate", (4e-3, 10.0)),
    'wd': ("weight decay's learning rate", (4e-3, 10.0)),
}
#: What the figure of gains compares the angle with, in the order of the legend.
_RIVALS = {
    'wd': 'weight decay',
    'wd-clip': 'weight decay, clipped gradients',
    'fixnorm': "the paper's update",
    'adamw': 'AdamW',
    'lars': 'LARS',
    'lamb': 'LAMB',
}
_IN_VIEW = (-20.0, 1.0)  # points below the best


def scan_panel(results: Results, method: str) -> Panel:
    """What each task loses to its best learning rate, in points, against the learning rate of SGD."""
    x_title, ends = _SCANNED[method]
    lines = []
    for i, (task, about) in enumerate(rotation.TASKS.items()):
        of_seeds = [results.runs(f'rotation-{task}', f'{method}/seed{seed}') for seed in rotation.SEEDS]
        means = rotation.means_of([runs for runs in of_seeds if runs])
        if not means or about.recipe == 'adamw':
            continue
        best = max(means.values())
        lost = [value - best if value > -math.inf else math.nan for value in means.values()]
        lines.append(Line(task, list(means), lost, i, markers=True))
    return Panel(x_title, 'points below the best', lines, y_range=_IN_VIEW, log_x=True, x_range=ends)


def gain_panel(results: Results, tasks: Mapping[str, rotation.Task], title: str) -> Panel:
    """The angle minus each rival on test data, with the interval, task by task."""
    by_angle = {task: results.values(f'rotation-{task}', f'{about.converted}/test') for task, about in tasks.items()}
    measured = [task for task, values in by_angle.items() if len(values) > 1]
    points = []
    for place, (method, name) in enumerate(_RIVALS.items()):
        for x, task in enumerate(measured):
            theirs = results.values(f'rotation-{task}', f'{method}/test')
            if len(theirs) > 1:
                gain = verdicts.difference(by_angle[task], theirs)
                beside = x + 0.13 * (place - (len(_RIVALS) - 1) / 2)
                points.append(Estimate(name, beside, gain.value, gain.low, gain.high, place, place))
    zero = Line('', [-0.5, len(measured) - 0.5], [0.0, 0.0], 7, dashed=True)
    return Panel('', 'by angle, minus the rival (points)', [zero], title, estimates=points, x_names=measured)


def figures(results: Results) -> dict[str, Chart]:
    """The figures of the page that have results, by file name."""
    found = {}
    scans = [scan_panel(results, method) for method in _SCANNED]
    if all(panel.lines for panel in scans):
        found['rotation-scan'] = Chart('Seven learning rates, a factor of 2 apart, on validation data', scans)
    gains = [
        gain_panel(results, rotation.TASKS, 'tasks of the first scans'),
        gain_panel(results, rotation.NETWORKS, 'networks that had no say'),
    ]
    if all(panel.estimates for panel in gains):
        found['rotation-gain'] = Chart('Each at its best of seven, on test data with new seeds', gains)
    return found
