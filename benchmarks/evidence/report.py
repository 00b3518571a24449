"""Make the tables and figures of README and of the docs from the raw results.

    python benchmarks/evidence/report.py

Tables go between their markers on the pages, figures to docs/images/evidence, README's to docs/images. What has no
raw results yet says so.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.evidence import fine_tune, front, lr_fit, rotation, rotation_report, verdicts
from benchmarks.evidence.cells import difference, spread
from benchmarks.evidence.experiments import BO, FIXNORM, MOBILE, TUNED, marked
from benchmarks.evidence.lab import Lines, Results
from benchmarks.tuners import exact_savings, lr_tables
from mmfixnorm.analysis.independence import interaction, ranking_agreement
from mmfixnorm.plot.chart import Chart, HeatMap, Line, Panel
from mmfixnorm.plot.png import draw_png, save_svg

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/evidence.md'
ANGLE_PAGE = ROOT / 'docs/rotation.md'
ROTATION_PAGE = ROOT / 'docs/rotation_measured.md'
TUNED_PAGE = ROOT / 'docs/fine_tuning.md'
SEARCH_PAGE = ROOT / 'docs/tuning.md'
SWEEP_PAGE = ROOT / 'docs/why_not_a_sweep.md'
README = ROOT / 'README.md'
FIGURES = ROOT / 'docs/images/evidence'
#: The figure of README, for a light and for a dark page.
FRONT = {ink: ROOT / f'docs/images/accuracy_cost_{ink}.svg' for ink in ('light', 'dark')}
NAMES = {
    'fixnorm': 'tuned FixNorm (Algorithm 4)',
    'fixnorm-low': 'tuned FixNorm (Algorithm 4)',
    'unimodal': 'tuned FixNorm (`UnimodalFixNormSearch`)',
    'bo': 'BO + WD',
    'bo-low': 'BO + WD',
    'reference': 'weight decay, not tuned',
    'wd': 'weight decay (BO + WD)',
    'alg1': 'Algorithm 1',
    'wn-fc': '@WN-FC',
    'fixnorm-head': 'FixNorm',
    'auto': "FixNorm, `alpha='auto'`",
    'equal': 'FixNorm, equal norms',
    'per-layer': 'FixNorm, each weight its first norm',
    'sgdp': 'SGDP',
    'adamw': 'AdamW',
    'projected': 'bound by projection of `g`',
    'no-warm-up': 'no warm-up',
    'ema': 'average of weights (EMAHook)',
    'ema-rescaled': 'average of weights, rescaled (FixNormEMAHook)',
}
SEARCHES = ('bo', 'bo-low', 'fixnorm', 'fixnorm-low', 'unimodal')
# Groups of an experiment whose range was chosen after other searches of the same network had ended at an edge.
LATER_RANGES = {
    ('table1-mobile', group): settings
    for group, settings in MOBILE.items()
    if settings['lr_range'] not in (FIXNORM['lr_range'], BO['lr_range'])
}
TASKS = ('digits', 'bccd', 'camvid')


def row_name(name: str, experiment: str) -> str:
    """A method's name, with its range where that was chosen later."""
    settings = LATER_RANGES.get((experiment, name))
    if settings is None:
        return NAMES[name]
    ranges = [('lr', settings['lr_range']), ('weight decay', settings.get('weight_decay_range'))]
    shown = ' and '.join(f'{of} {pair[0]:g} to {pair[1]:g}' for of, pair in ranges if pair)
    return f'{NAMES[name]}, {shown} (chosen afterwards)'


def equal_alphas(runs: Lines, point: Sequence[float | None]) -> str:
    """How many of the alphas that were tried at a learning rate and full length gave the value of the chosen one."""
    longest = max((run['fraction'] for run in runs), default=None)
    values = {
        run['alpha']: run['value']
        for run in runs
        if run['fraction'] == longest and run['lr'] == point[0] and run['alpha'] is not None
    }
    same = [alpha for alpha, value in values.items() if value == values.get(point[1])]
    return f' ({len(same)} of {len(values)} alphas equal)' if len(same) > 1 else ''


def shown_point(point: Sequence[float | None]) -> str:
    names = ('lr', 'alpha', 'wd')
    return ', '.join(f'{n} {v:.3g}' for n, v in zip(names, point, strict=True) if v is not None)


def table1(results: Results, experiment: str) -> str:
    """Searches and what their winners do on test data."""
    methods = {method: (experiment, method) for method in ('reference', *SEARCHES)}
    return comparison(results, methods, 'bo-low' if results.head(experiment, 'bo-low-test') else 'bo')


def comparison(results: Results, methods: Mapping[str, tuple[str, str]], baseline: str) -> str:
    """One row for each method that has test results: what its search cost and chose, and the test.

    Args:
        results (Results): The raw lines.
        methods (Mapping): Name of a row to its experiment and group; the test is in the group with ``-test`` behind it,
            or in the group itself.
        baseline (str): The row that the others are compared with.
    """
    against_name = row_name(baseline, methods[baseline][0]).removesuffix(' (chosen afterwards)')
    rows = [f'| method | T_max | chosen | val | test, new seeds | minus {against_name}, 95 % |', '|' + '---|' * 6]
    tested = {name: (e, f'{g}-test' if results.head(e, f'{g}-test') else g) for name, (e, g) in methods.items()}
    against = results.values(*tested[baseline])
    for name, place in methods.items():
        final = results.head(*tested[name])
        if final is None or final['kind'] != 'finals':
            continue  # not tested yet
        search = results.head(*place) if tested[name] != place else None
        cost, val = (f'{search["cost"]:g}', f'{search["value"]:.2f}') if search else ('0', '')
        values = results.values(*tested[name])
        less = '' if name == baseline else difference(values, against)
        chosen = shown_point(final['point']) + equal_alphas(results.runs(*place) if search else [], final['point'])
        rows.append(f'| {row_name(name, place[0])} | {cost} | {chosen} | {val} | {spread(values)} | {less} |')
    return '\n'.join(rows)


def transfer(results: Results, experiment: str) -> str:
    """Tuned FixNorm against BO + WD on one task."""
    return comparison(results, {method: (experiment, method) for method in ('bo', 'fixnorm')}, 'bo')


def fig4(results: Results) -> tuple[list[str], np.ndarray]:
    """The grid as lrs, alphas and values of shape (alphas, lrs, seeds)."""
    runs = [results.runs('fig4', f'grid-seed{seed}') for seed in (0, 1)]
    lrs = sorted({run['lr'] for run in runs[0]})
    alphas = sorted({run['alpha'] for run in runs[0]})
    table = np.full((len(alphas), len(lrs), len(runs)), math.nan)
    for k, seed in enumerate(runs):
        for run in seed:
            table[alphas.index(run['alpha']), lrs.index(run['lr']), k] = run['value']
    return [f'{lr:g}' for lr in lrs], table


def fig4_table(results: Results) -> str:
    lrs, table = fig4(results)
    alphas = sorted({run['alpha'] for run in results.runs('fig4', 'grid-seed0')})
    mean = table.mean(axis=2)
    rows = ['| alpha | ' + ' | '.join(f'lr {lr}' for lr in lrs) + ' | best lr |', '|' + '---|' * (len(lrs) + 2)]
    for alpha, row in zip(alphas, mean, strict=True):
        cells = ' | '.join(f'{value:.1f}' for value in row)
        rows.append(f'| {alpha:g} | {cells} | {lrs[int(row.argmax())]} |')
    test, w = interaction(table), ranking_agreement(mean)
    half = 2 * table.std(axis=2, ddof=1).mean()
    rows += [
        '',
        f'Interaction of lr and alpha in a two-way analysis of variance: F{test.dof} = {test.statistic:.2f}, '
        f"p = {test.p:.2g}. Kendall's W of the alphas' rankings of the learning rates: {w.w:.2f} (p {w.p:.2g}). "
        f'Two seeds of one cell differ by {half / math.sqrt(2):.1f} points on average.',
    ]
    return '\n'.join(rows)


def claims(results: Results, methods: Mapping[str, tuple[str, str]], baseline: str) -> str:
    """Methods on test data: accuracy, scale of the classifier and risk at the end."""
    rows = [
        f'| method | lr | test | minus {NAMES[baseline]}, 95 % | `g` or norm of W | MCBR, test | train loss |',
        '|---|---|---|---|---|---|---|',
    ]
    against = results.values(*methods[baseline])
    for name, place in methods.items():
        runs = [run for run in results.runs(*place) if run['value'] is not None]
        if not runs:
            continue
        last = {key: [run['curves'][key][1][-1] for run in runs] for key in ('train/g', 'val/mcbr', 'train/loss')}
        values = [run['value'] for run in runs]
        less = '' if name == baseline else difference(values, against)
        g, risk, loss = (statistics.mean(last[key]) for key in ('train/g', 'val/mcbr', 'train/loss'))
        rows.append(
            f'| {NAMES[name]} | {runs[0]["lr"]:.3g} | {spread(values)} | {less} | {g:.2f} | {risk:.3f} | {loss:.3f} |'
        )
    return '\n'.join(rows)


SHORT = {
    'wd': ('table1-residual', 'bo-test'),
    'alg1': ('fig1-2', 'alg1-test'),
    'wn-fc': ('fig1-2', 'wn-fc-test'),
    'fixnorm-head': ('table1-residual', 'fixnorm-test'),
}
FIT = {
    'alg1': ('fig2-fit', 'alg1-test'),
    'wn-fc': ('fig2-fit', 'wn-fc-test'),
    'fixnorm-head': ('fig2-fit', 'fixnorm-test'),
}


def progress(results: Results, experiment: str) -> Panel:
    """Fig. 5 left: the best value so far against the cost."""
    lines = []
    for i, method in enumerate(SEARCHES):
        head, runs = results.head(experiment, method), results.runs(experiment, method)
        if head is None:
            continue
        cost = np.cumsum([run['fraction'] for run in runs])
        best = np.maximum.accumulate([run['value'] if run['value'] is not None else -math.inf for run in runs])
        lines.append(Line(row_name(method, experiment).replace('`', ''), cost.tolist(), best.tolist(), i, steps=True))
    return Panel('cost (T_max)', 'best top-1 on val (%)', lines, title=experiment.removeprefix('table1-'))


def curves(results: Results, methods: Mapping[str, tuple[str, str]], key: str, title: str) -> Panel:
    """The mean over the seeds of a logged number or of ``value``, against epoch, from the smallest to the largest."""
    lines = []
    for i, (name, place) in enumerate(methods.items()):
        lines_of = results.runs(*place)
        runs = [list(zip(*r['curve'], strict=True)) if key == 'value' else r['curves'].get(key) for r in lines_of]
        runs = [run for run in runs if run]
        if not runs:
            continue
        values = np.array([y for _, y in runs])
        band = (values.min(axis=0).tolist(), values.max(axis=0).tolist())
        lines.append(Line(NAMES[name], list(runs[0][0]), values.mean(axis=0).tolist(), i, band=band))
    return Panel('epoch', title, lines)


def figures(results: Results) -> dict[str, Chart]:
    """Every figure that has results, by its file name."""
    found: dict[str, Chart] = {}
    searched = [e for e in ('table1-residual', 'table1-mobile') if results.head(e, 'fixnorm')]
    if searched:
        found['fig5'] = Chart('Search progress', [progress(results, e) for e in searched])
    if results.runs('fig4', 'grid-seed1'):
        lrs, table = fig4(results)
        mean = table.mean(axis=2)
        alphas = sorted({run['alpha'] for run in results.runs('fig4', 'grid-seed0')})
        heat_map = HeatMap(
            x_title='learning rate',
            y_title='alpha',
            value_title='top-1 on val (%)',
            columns=lrs,
            rows=[f'{alpha:g}' for alpha in alphas],
            values=mean.tolist(),
            texts=[[f'{value:.1f}' for value in row] for row in mean],
            row_best=mean.argmax(axis=1).tolist(),
            column_best=mean.argmax(axis=0).tolist(),
            row_best_name='best lr of a row',
            column_best_name='best alpha of a column',
        )
        found['fig4'] = Chart('Learning rate and alpha, mean of two seeds', heat_map)
    if results.runs('fig1-2', 'alg1-test'):
        wd = {'wd': SHORT['wd']}
        found['fig1'] = Chart(
            'Weight decay and Algorithm 1',
            [
                curves(results, wd, 'train/weight_norm', 'norm of the convolutions'),
                curves(results, {n: SHORT[n] for n in ('wd', 'alg1')}, 'train/loss', 'training loss'),
                curves(results, {n: SHORT[n] for n in ('wd', 'alg1')}, 'value', 'top-1 on test data (%)'),
            ],
        )
    for name, methods in (('fig2', SHORT), ('fig2-fit', FIT)):
        if all(results.runs(*place) for place in methods.values()):
            found[name] = Chart(
                'The final layer',
                [
                    curves(results, methods, 'train/g', 'g, or norm of W_FC'),
                    curves(results, methods, 'val/mcbr', 'MCBR on test data'),
                ],
            )
    return found


def tables(results: Results) -> dict[str, str]:
    """Every table that has results, by its marker."""
    tuned = ('table1-residual', 'fixnorm')

    def own(experiment: str, *groups: str) -> dict[str, tuple[str, str]]:
        return {group: (experiment, group) for group in groups}

    makers: dict[str, Callable[[], str]] = {
        'table1-residual': lambda: table1(results, 'table1-residual'),
        'table1-mobile': lambda: table1(results, 'table1-mobile'),
        'fig4': lambda: fig4_table(results),
        'fig1-2': lambda: claims(results, SHORT, 'wd'),
        'fig2-fit': lambda: claims(results, FIT, 'fixnorm-head'),
        'beyond': lambda: comparison(
            results, {'fixnorm': tuned, **own('beyond', 'auto', 'equal', 'per-layer')}, 'fixnorm'
        ),
        'ablations': lambda: comparison(
            results, {'fixnorm': tuned, **own('ablations', 'projected', 'no-warm-up', 'ema', 'ema-rescaled')}, 'fixnorm'
        ),
        'peers': lambda: comparison(
            results,
            {'bo': ('table1-residual', 'bo'), 'fixnorm': tuned, **own('peers', 'per-layer', 'sgdp', 'adamw')},
            'bo',
        ),
        **{f'transfer-{task}': partial(transfer, results, f'transfer-{task}') for task in TASKS},
    }
    needed = {
        'table1-residual': ('table1-residual', 'bo-test'),
        'table1-mobile': ('table1-mobile', 'bo-low-test'),
        'fig4': ('fig4', 'grid-seed1'),
        'fig1-2': ('fig1-2', 'wn-fc-test'),
        'fig2-fit': ('fig2-fit', 'alg1-test'),
        'beyond': ('beyond', 'auto-test'),
        'ablations': ('ablations', 'ema-rescaled'),
        'peers': ('peers', 'per-layer-test'),
        **{f'transfer-{task}': (f'transfer-{task}', 'bo-test') for task in TASKS},
    }
    missing = '*Not run yet.*'
    return {name: make() if results.runs(*needed[name]) else missing for name, make in makers.items()}


def lr_fit_table(results: Results) -> str:
    """What three trainings chose without a range, beside the learning rate of the config and the searches with one."""
    head = ['task', 'update', 'T_max', 'lr', 'test, new seeds', "the config's own lr", 'its test', 'gain, 95 %']
    head += ['Algorithm 4, a given range', 'BO + WD']
    rows = [head, ['---'] * len(head)]
    for task in lr_fit.STOCK_LRS:
        for update, prefix in (('fixnorm', ''), ('angle', 'angle-')):
            name, own = f'lr-fit-{task}', lr_fit.own_lr(task, update)
            searched, values = results.head(name, f'{prefix}search'), results.values(name, f'{prefix}test')
            if searched is None or not values:
                continue  # not trained yet
            if searched['winner'][0] == own:
                untuned = values
            elif update == 'angle':
                untuned = results.values(*rotation.where_default(results, task))
            else:
                untuned = results.values(name, 'stock-test')
            rows.append(
                [task, update, f'{searched["cost"]:.2f}', f'{searched["winner"][0]:g}', spread(values), f'{own:g}']
            )
            gain = difference(values, untuned) if untuned and untuned != values else ''
            rows[-1] += [spread(untuned) if untuned else '', gain]
            if task not in TUNED:  # AdamW's searches
                rival, paid = rotation_report.tuned_decay(results, task)
                rows[-1] += ['', f'{spread(rival)} at {paid:.0f}, AdamW' if rival else '']
                continue
            experiment, *groups = TUNED[task]
            for group in groups:
                earlier = results.head(experiment, group)
                cost = f' at {earlier["cost"]:.0f}' if earlier else ''
                rows[-1].append(f'{spread(results.values(experiment, f"{group}-test"))}{cost}')
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


#: What README calls the tasks.
TASK_NAMES = {
    'residual': 'residual',
    'mobile': 'mobile',
    'digits': 'digits',
    'bccd': 'cells',
    'camvid': 'streets',
}


def _tested(results: Results, experiment: str, group: str, test: str) -> str:
    """Mean on test data and cost of a search."""
    search, values = results.head(experiment, group), results.values(experiment, test)
    return f'{statistics.mean(values):.2f} at {search["cost"]:g}' if search and values else ''


def readme_table(results: Results) -> str:
    """In short: tuned weight decay, tuned FixNorm, and three trainings by angle, on test data."""
    rows = [
        '| task | weight decay | FixNorm | minus weight decay | by angle, at 3 | minus weight decay |',
        '|---|---|---|---|---|---|',
    ]
    for task, name in TASK_NAMES.items():
        experiment, fixnorm, bo = TUNED[task]
        places = [(experiment, bo, f'{bo}-test'), (experiment, fixnorm, f'{fixnorm}-test')]
        places.append((f'lr-fit-{task}', 'angle-search', 'angle-test'))
        decay, *ours = (results.values(at, test) for at, _, test in places)
        tested = [_tested(results, *place).removesuffix(' at 3') for place in places]
        cells = [marked(name, task), tested[0]]
        for text, values in zip(tested[1:], ours, strict=True):
            cells += [text, difference(values, decay) if text else '']
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def sweep_table(results: Results) -> str:
    """Bayesian optimisation of learning rate and weight decay, and the searches over FixNorm's two numbers."""
    rows = ['| task | search | T_max | test, new seeds | minus BO + WD, 95 % |', '|---|---|---|---|---|']
    for task in TASK_NAMES:
        experiment, fixnorm, bo = TUNED[task]
        against = results.values(experiment, f'{bo}-test')
        groups = [(bo, 'BO + WD'), (fixnorm, '`FixNormSearch`'), ('unimodal', '`UnimodalFixNormSearch`')]
        places = [(experiment, group, f'{group}-test', name) for group, name in groups]
        fits = {'': '`LRFitSearch`', 'angle-': '`LRFitSearch`, by angle'}
        places += [(f'lr-fit-{task}', f'{prefix}search', f'{prefix}test', name) for prefix, name in fits.items()]
        for at, group, test, name in places:
            search, values = results.head(at, group), results.values(at, test)
            if search and values:
                less = '' if group == bo else difference(values, against)
                rows.append(f'| {task} | {name} | {search["cost"]:.3g} | {spread(values)} | {less} |')
    return '\n'.join(rows)


def with_tables(page: str, made: Mapping[str, str]) -> str:
    """A page with its tables replaced.

    Raises:
        ValueError: A table has no marker on the page.
    """
    for name, text in made.items():
        pattern = re.compile(rf'(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)', re.DOTALL)
        page, count = pattern.subn(partial(_filled, text), page)
        if count != 1:
            raise ValueError(f'the page must have the markers of {name} once, has them {count} times')
    return page


def _filled(text: str, markers: re.Match[str]) -> str:
    return f'{markers[1]}{text}\n{markers[2]}'


def pages(results: Results) -> dict[Path, dict[str, str]]:
    """The tables of each page."""
    played = json.loads(lr_tables.RESULT.read_text(encoding='utf-8'))
    of_search = {
        'lr-fit': lr_fit_table(results),
        'exact-savings': exact_savings.table(results),
        'lr-tables': lr_tables.tables_text(played),
        'lr-tables-results': lr_tables.results_text(played['fixnorm']),
        'lr-tables-short': lr_tables.short_text(played),
        'lr-tables-angle': lr_tables.results_text(played['angle']),
    }
    scratch, tuned = (rotation.TASKS, 'rotation'), (fine_tune.TASKS, 'fine-tune')
    by_adamw = {name: task for name, task in rotation.TASKS.items() if task.recipe == 'adamw'}
    of_rotation = {
        'scan': rotation_report.scan_table(results, *scratch),
        'bests': rotation_report.bests_table(results),
        'law': rotation_report.law_table(results),
        'longer': rotation_report.longer_table(results),
        'default': rotation_report.default_table(results),
        'networks': rotation_report.scan_table(results, rotation.NETWORKS, 'rotation'),
        'clip': rotation_report.clip_table(results),
        'decay': rotation_report.decay_table(results),
        'others': rotation_report.others_table(results),
        'raised': rotation_report.raised_table(results),
        'networks-finals': rotation_report.finals_table(results, rotation.NETWORKS, 'rotation', 'angle'),
        'finals': rotation_report.finals_table(results, *scratch, 'angle'),
        'adamw-finals': rotation_report.finals_table(results, by_adamw, 'rotation', 'adamw'),
    }
    of_tuning = {
        'fine-tune-scan': rotation_report.scan_table(results, *tuned),
        'fine-tune-finals': rotation_report.finals_table(results, *tuned, 'wd'),
    }
    in_short = {README: {'results': readme_table(results)}, SWEEP_PAGE: {'sweep': sweep_table(results)}}
    own = {
        ANGLE_PAGE: {'summary': rotation_report.summary_table(results)},
        ROTATION_PAGE: of_rotation,
        TUNED_PAGE: of_tuning,
        SEARCH_PAGE: of_search,
    }
    return {PAGE: {**tables(results), 'verdicts': verdicts.verdicts_table(results)}, **own, **in_short}


def main() -> None:
    results = Results()
    for page, made in pages(results).items():
        page.write_text(with_tables(page.read_text(encoding='utf-8'), made), encoding='utf-8')
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, chart in {**figures(results), **rotation_report.figures(results)}.items():
        draw_png(chart).savefig(FIGURES / f'{name}.png')
    if of_front := front.chart(results):
        for ink, path in FRONT.items():
            save_svg(of_front, path, ink)


if __name__ == '__main__':
    main()
