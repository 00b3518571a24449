"""The tables of docs/evidence.md are what the raw results say."""

import copy
import html
import json
import math
import re
import statistics

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.optim import build_optim_wrapper
from scipy import stats

from benchmarks.evidence import front, report, rotation, rotation_report, verdicts
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.lab import RESULTS, Results, config_file, read_lines
from mmfixnorm.launch import build_model, load_config
from mmfixnorm.plot.png import draw_png

FILES = sorted(RESULTS.glob('*.jsonl'))


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)


def groups(lines):
    return {line['group']: line for line in lines if 'kind' in line}


def test_the_pages_have_the_tables_that_the_raw_results_make():
    for file, tables in report.pages(report.Results()).items():
        page = file.read_text(encoding='utf-8')
        assert report.with_tables(page, tables) == page


def test_a_scan_has_the_mean_of_its_seeds_and_the_width_of_its_top():
    def runs(*values):
        return [dict(lr=2.0**i, value=v) for i, v in enumerate(values)]

    seeds = [runs(50.0, 59.0, 60.2, 61.0, 60.0, 40.0, None), runs(52.0, 59.0, 60.2, 60.0, 59.9, 44.0, 10.0)]
    expected = ['1 to 64', '51.0', '59.0', '60.2', '**60.5**', '60.0', '42.0', 'diverged', '8', 'x 4']
    assert rotation_report.scan_cells(seeds) == expected
    assert rotation_report.scan_cells([runs(3.0, 1.0)]) == ['1 to 2', '**3.0**', '1.0', '1 (edge)', 'x 1']


def test_each_figure_of_the_page_is_drawn_from_the_raw_results(tmp_path):
    pages = [page.read_text(encoding='utf-8') for page in (report.PAGE, report.ROTATION_PAGE)]
    shown = {name for page in pages for name in re.findall(r'\(images/evidence/(\S+)\.png\)', page)}
    charts = {**report.figures(report.Results()), **rotation_report.figures(report.Results())}
    assert set(charts) == shown == {file.stem for file in report.FIGURES.glob('*.png')}
    for name, chart in charts.items():
        figure = draw_png(chart)
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f'{name}.png')


@pytest.mark.parametrize('ink', report.FRONT)
def test_the_figure_of_the_readme_is_of_the_raw_results(ink):
    # Drawings differ with the version of matplotlib; the description has the numbers of every point.
    (description,) = re.findall(
        r'<dc:description>(.*?)</dc:description>', report.FRONT[ink].read_text(encoding='utf-8'), re.DOTALL
    )
    chart = front.chart(report.Results())
    assert html.unescape(description).splitlines() == list(chart.notes)
    assert {point.name for panel in chart.panels for point in panel.estimates} <= set(chart.legend)


def test_a_point_of_the_figure_has_the_interval_of_its_mean_and_pays_for_every_search_before_it(tmp_path):
    runs = {'wd/test': [58.0, 60.0, 62.0, None], 'angle/test': [61.0, 62.0]}
    lines = [dict(group=f'{method}/seed0', kind='search', cost=7.0) for method in ('wd', 'angle', 'fixnorm')]
    for group, values in runs.items():
        lines += [dict(group=group, seed=i + 3, value=v) for i, v in enumerate(values)]
    (tmp_path / 'rotation-digits.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    bo = dict(group='bo', kind='search', cost=11.0)
    (tmp_path / 'transfer-digits.jsonl').write_text(json.dumps(bo))
    panel, notes = front.panel(report.Results(tmp_path), 'digits')
    angle, wd = panel.estimates
    assert (angle.x, angle.filled, wd.x, wd.filled) == (7.0, True, 18.0, False)
    half = 4.302653 * 2 / math.sqrt(3)  # the quantile of Student's t with two degrees of freedom, from a table
    assert (wd.low, wd.y, wd.high) == pytest.approx((60 - half, 60, 60 + half))
    assert notes[1] == (
        'digits: weight decay, 7 lrs at a searched decay: 60.00 [55.03, 64.97] at 18 T_max, 4 seeds, 1 diverged'
    )


def test_points_of_one_cost_stand_beside_each_other_and_a_far_value_does_not_widen_the_panel():
    points = [front.Estimate(name, 7.0, 60.0, 59.0, 61.0) for name in 'abc']
    assert [point.x for point in front.side_by_side(points)] == [7.0, 7.5, 8.0]
    low, high = front.visible([60.0, 59.0, 58.5, 59.5, 40.0])
    assert 40 < low < 58.5 < 60 < high
    low, high = front.visible([36.14, 36.10, 34.03], half=0.6)  # two that are equal by chance hide no third
    assert low < 34.03 < 36.14 < high


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_each_training_belongs_to_a_group_whose_config_is_here(file):
    lines = read_lines(file)
    heads = groups(lines)
    assert file.stem in EXPERIMENTS
    assert {line['group'] for line in lines} == set(heads)
    assert all(config_file(head['config']).is_file() for head in heads.values())


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_the_winner_is_the_best_of_full_length_and_tests_have_seeds_that_no_search_saw(file):
    lines = read_lines(file)
    for name, head in groups(lines).items():
        runs = [line for line in lines if line['group'] == name and 'kind' not in line]
        if head['kind'] == 'finals':
            assert all(run['seed'] != 0 for run in runs)
            assert len({run['seed'] for run in runs}) == len(runs)
            continue
        if head['method'] == 'LRFitSearch':  # chooses by its curve, not by values
            assert head['value'] in [run['value'] for run in runs if run['lr'] == head['winner'][0]]
            continue
        longest = max(run['fraction'] for run in runs)
        best = max(run['value'] for run in runs if run['value'] is not None and run['fraction'] == longest)
        assert head['value'] == best


def test_a_table_has_the_mean_and_the_difference_of_its_runs(tmp_path):
    values = {'bo-test': [60.0, 61.0, 62.0], 'fixnorm-test': [62.0, 63.0, 65.0]}
    lines = [dict(group='fixnorm', kind='search', cost=11.0, value=61.5, winner=[0.8, 1.0, None])]
    for group, of_group in values.items():
        lines.append(dict(group=group, kind='finals', point=[0.8, None, 1e-3]))
        lines += [dict(group=group, seed=i + 1, value=v) for i, v in enumerate(of_group)]
    (tmp_path / 'table1-residual.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    rows = report.table1(report.Results(tmp_path), 'table1-residual').splitlines()
    assert rows[2].startswith('| BO + WD | 0 | lr 0.8, wd 0.001 |  | 61.00 (sd 1.00) |')
    # Welch's interval by its formula: variances over n, degrees of freedom by Satterthwaite.
    u, v = (statistics.variance(of) / 3 for of in (values['fixnorm-test'], values['bo-test']))
    half = stats.t.ppf(0.975, (u + v) ** 2 / (u**2 / 2 + v**2 / 2)) * math.sqrt(u + v)
    assert f'{7 / 3:+.2f} [{7 / 3 - half:+.2f}, {7 / 3 + half:+.2f}]' in rows[3]


def test_a_range_that_was_chosen_afterwards_is_labelled():
    # Of the mobile network's searches, two began in the range of the paper; their best lay at an edge.
    rows = report.table1(report.Results(), 'table1-mobile').splitlines()[2:]
    later = [row.split(' | ')[0] for row in rows if '(chosen afterwards)' in row]
    assert len(later) == 3
    assert [row for row in later if 'UnimodalFixNormSearch' in row and 'lr 0.05 to 0.8' in row]
    assert '(chosen afterwards)' not in report.table1(report.Results(), 'table1-residual')


@pytest.mark.parametrize(
    ('values', 'label'),
    [
        ({0.5: 50.0, 1.0: 50.0, 2.0: 50.0}, ' (3 of 3 alphas equal)'),
        ({0.5: 49.0, 1.0: 50.0, 2.0: 50.0}, ' (2 of 3 alphas equal)'),
        ({0.5: 49.0, 1.0: 50.0, 2.0: 48.0}, ''),
    ],
)
def test_an_alpha_that_ties_with_others_is_labelled(values, label):
    runs = [dict(fraction=1.0, lr=0.8, alpha=alpha, value=value) for alpha, value in values.items()]
    runs += [dict(fraction=0.2, lr=0.8, alpha=4.0, value=50.0), dict(fraction=1.0, lr=0.4, alpha=8.0, value=50.0)]
    assert report.equal_alphas(runs, [0.8, 1.0, None]) == label


def test_fine_tuning_names_what_trains_its_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ('bccd', 'camvid'):
        with pytest.raises(SystemExit, match=f'no such checkpoint; .* python tools/train.py .*/pretrain_{task}.py '):
            EXPERIMENTS[f'fine-tune-{task}'](None)


def test_a_page_without_a_marker_is_refused():
    with pytest.raises(ValueError, match='must have the markers of fig4 once, has them 0 times'):
        report.with_tables('no markers', {'fig4': 'text'})


def test_what_a_method_chose_is_compared_on_test_data_with_the_angle(tmp_path):
    values = {'angle': [60.0, 61.0, 62.0], 'wd': [58.0, None, 58.5], 'lars': [None, None]}
    lines = []
    for method, of_method in values.items():
        lines.append(dict(group=f'{method}/seed0', kind='search', value=61.0, winner=[0.02, None, None]))
        lines.append(dict(group=f'{method}/test', kind='finals', point=[0.02, None, None]))
        lines += [dict(group=f'{method}/test', seed=i + 3, value=v) for i, v in enumerate(of_method)]
    (tmp_path / 'rotation-digits.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    finals = rotation_report.finals_table(report.Results(tmp_path), rotation.TASKS, 'rotation', 'angle')
    angle, wd, lars = finals.splitlines()[2:]
    assert angle == '| digits | angle | 0.02 | 61.0 | 61.00 (sd 1.00) |  |'
    assert wd.startswith('| digits | wd | 0.02 | 61.0 | 58.25 (sd 0.35), 1 diverged | -2.75 [')
    assert lars == '| digits | lars | 0.02 | 61.0 | diverged |  |'


def test_methods_that_three_seeds_have_scanned_tell_how_far_apart_their_bests_are(tmp_path):
    tops = {
        'angle': dict(bccd=0.01, camvid=0.01, digits=0.04, residual=0.08, mobile=0.16, deit=0.02),
        'lars': dict(bccd=0.01, camvid=0.01, digits=0.01, residual=0.01),  # not everywhere yet
    }
    for task in rotation.TASKS:
        lines = [
            dict(group=f'{method}/seed{seed}', lr=lr, seed=seed, value=60 - abs(math.log2(lr / of_tasks[task])))
            for method, of_tasks in tops.items()
            if task in of_tasks
            for seed in rotation.SEEDS
            for lr in rotation.seven(rotation.ANGLES)
        ]
        (tmp_path / f'rotation-{task}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    (angle,) = rotation_report.bests_table(report.Results(tmp_path)).splitlines()[2:]
    assert angle == '| angle | 0.01 | 0.01 | 0.04 | 0.08 | 0.16 (edge) | x 16 | 0.02 |  |'


def test_a_change_of_the_training_tells_how_far_the_best_has_moved(tmp_path):
    tops = {
        'rotation-residual': {'angle/seed0': 0.04},
        'rotation-law': {'batch x 4/angle': 0.08, 'depth x 3/angle': 0.01},
    }
    for experiment, groups_of in tops.items():
        lines = [
            dict(group=group, lr=lr, value=None if lr == 0.16 else 60 - 4 * abs(math.log2(lr / top)))
            for group, top in groups_of.items()
            for lr in rotation.BESIDE['angle']
        ]
        (tmp_path / f'{experiment}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    rows = [row.split(' | ') for row in rotation_report.law_table(report.Results(tmp_path)).splitlines()[2:]]
    assert [(row[0], row[8], row[-1]) for row in rows] == [
        ('| nothing', '0.04', 'x 1 |'),
        ('| batch x 4', '0.08', 'x 2 |'),
        ('| depth x 3', '0.01 (edge)', 'x 0.25 |'),
    ]
    assert rows[0][7] == 'diverged'


def test_the_figures_of_rotation_have_the_numbers_of_its_tables(tmp_path):
    lrs = [0.01, 0.02]
    lines = [
        dict(group=f'{of}/seed0', lr=lr, value=v) for of in ('angle', 'fixnorm', 'wd') for lr, v in zip(lrs, (50, 58))
    ]
    lines += [dict(group='angle/seed1', lr=lr, value=v) for lr, v in zip(lrs, (54, None))]
    for method, values in {'angle': [60.0, 62.0], 'lars': [57.0, 58.0]}.items():
        lines.append(dict(group=f'{method}/test', kind='finals', point=[0.02, None, None]))
        lines += [dict(group=f'{method}/test', seed=seed, value=value) for seed, value in enumerate(values)]
    for name in ('rotation-bccd', 'rotation-gfl'):
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    charts = rotation_report.figures(report.Results(tmp_path))
    angle, fixnorm, _ = charts['rotation-scan'].panels
    ((angles,), (steps,)) = angle.lines, fixnorm.lines
    assert (angles.name, angles.x, angles.y[0], steps.y) == ('bccd', lrs, 0.0, [-8.0, 0.0])
    assert math.isnan(angles.y[1])  # one of its seeds diverged
    for panel, name in zip(charts['rotation-gain'].panels, ('bccd', 'gfl'), strict=True):
        (point,) = panel.estimates
        expected = verdicts.difference([60.0, 62.0], [57.0, 58.0])
        assert (point.name, point.y, point.low, point.high) == ('LARS', expected.value, expected.low, expected.high)
        assert (panel.x_names, round(point.x)) == ([name], 0)


@pytest.mark.parametrize(
    ('of', 'method'),
    [
        (of, method)
        for of in ('digits', 'deit')
        for method in (*rotation.TASKS[of].methods, *rotation.TASKS[of].switches)
    ],
)
def test_each_method_of_the_scans_differs_from_its_config_in_what_it_claims(of, method):
    pytest.importorskip('mmpretrain')
    task = rotation.TASKS[of]
    file, options = rotation.trained_by(task, method)
    cfg = load_config(config_file(file))
    cfg.merge_from_dict(options)
    cfg.optim_wrapper.optimizer.lr = lr = 8 * rotation.lowest(task, method)  # the fourth of seven
    model = build_model(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    start = {
        name: p.detach().clone() for name, p in model.named_parameters() if name.endswith('weight') and p.dim() > 1
    }
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        loss = sum((p * torch.randn(p.shape, generator=generator)).sum() for p in model.parameters())
        wrapper.update_params(loss)
    after = dict(model.named_parameters())
    kept = [after[name].norm().item() == pytest.approx(p.norm().item(), rel=1e-5) for name, p in start.items()]
    angles = [torch.acos(cosine(after[name], p).clamp(-1, 1)).item() for name, p in start.items()]
    by_set = ('angle-set', 'angle-set-clip', 'angle-set-clip-other-lr')
    by_angle = [of for of in rotation.DEIT_SWITCHES if of.startswith('angle') and of not in by_set] + [
        'angle',
        'angle-sgd',
    ]
    if method in (*by_angle, 'hyperball', 'per-layer'):
        assert all(kept)
    else:
        assert not all(kept)
    if method in by_angle:
        assert all(0 < angle <= 2 * lr * (1 + 1e-3) for angle in angles)


@pytest.mark.parametrize(
    ('intervals', 'claimed', 'answer'),
    [
        ([(1, 2), (0.1, 9)], 1, 'yes'),
        ([(1, 2), (-0.1, 9)], 1, 'in part'),
        ([(-1, 2), (-0.1, 9)], 1, 'not seen'),
        ([(1, 2), (-9, -1)], 1, 'no'),
        ([(-2, -1)], -1, 'yes'),
        ([(-1, 2), (1, 2)], 0, 'yes'),
        ([(-1, 2), (-2, -1)], 0, 'no'),
    ],
)
def test_the_answer_to_a_question_follows_from_its_intervals(intervals, claimed, answer):
    assert verdicts.verdict([verdicts.Interval(0.0, *ends) for ends in intervals], claimed) == answer


def test_the_interval_of_a_ratio_of_spreads_holds_the_true_ratio_in_95_of_100_draws():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        interval = verdicts.ratio_of_spreads(rng.normal(0, 3, size=5), rng.normal(7, 2, size=4))
        held += interval.low < 1.5 < interval.high
    assert 0.935 < held / 2000 < 0.965


def test_every_question_is_asked_of_the_results(tmp_path):
    lines = [dict(group='fixnorm', kind='search', cost=11.0), dict(group='bo', kind='search', cost=25.0)]
    for group, value in (('fixnorm-test', 61.0), ('bo-test', 58.0)):
        lines.append(dict(group=group, kind='finals', point=[0.8, None, None]))
        lines += [dict(group=group, seed=i, value=value + 0.1 * i) for i in range(3)]
    (tmp_path / 'table1-residual.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    rows = verdicts.verdicts_table(Results(tmp_path)).splitlines()[2:]
    assert [row.split(' | ')[4] for row in rows] == ['yes', 'yes', 'not seen']
    assert 'at 11 T_max against 25 | +3.00 [' in rows[1]


def test_an_untuned_angle_is_compared_with_the_better_search_of_weight_decay_at_the_cost_of_all_its_trainings(tmp_path):
    def finals(group, value, lr=0.02):
        head = dict(group=group, kind='finals', point=[lr, None, None])
        return [head, *(dict(group=group, seed=i, value=value + 0.1 * i) for i in range(3))]

    def search(group, cost):
        return dict(group=group, kind='search', cost=cost)

    files = {
        'transfer-digits': [search('bo', 11.0), *finals('bo-test', 97.0)],
        # scanned at the searched decay, which is better; its angle is the default
        'rotation-digits': [
            *[search('wd/seed0', 7.0), *finals('wd/test', 98.0, 0.2), *finals('angle/test', 99.0)],
            *finals('wd-clip/test', 97.0, 0.4),
        ],
        # a network that nobody has tuned, trained with the default beside the angle that its scan chose
        'rotation-fcos': [
            *[*finals('angle/test', 58.0, 0.01), *finals('untuned/test', 50.0)],
            *finals('wd-clip/test', 52.0, 0.02),
        ],
        'table1-residual': [search('bo', 25.0), *finals('bo-test', 60.0)],
        # another angle than the default was chosen there
        'rotation-residual': finals('angle/test', 62.0, 0.04),
        'rotation-default': finals('residual/angle', 61.0),
    }
    for name, lines in files.items():
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    rows = [row.split(' | ') for row in rotation_report.default_table(Results(tmp_path)).splitlines()[2:]]
    assert [(row[0], row[1][:5], row[2][:5], row[3], row[5][:5], row[6][:5]) for row in rows] == [
        ('| residual', '61.10', '60.10', '25', '', ' |'),
        ('| digits', '99.10', '98.10', '18', '97.10', '+2.00'),
        ('| fcos', '50.10', '', '', '52.10', '-2.00'),
    ]


def test_the_better_of_two_searches_of_adamw_pays_for_itself_alone(tmp_path):
    def searched(group, cost, value):
        head = dict(group=f'{group}', kind='search', cost=cost)
        test = group.replace('/seed0', '/test') if '/' in group else f'{group}-test'
        return [head, dict(group=test, kind='finals', point=[1.0, None, None]), dict(group=test, seed=3, value=value)]

    (tmp_path / 'transfer-deit.jsonl').write_text('\n'.join(map(json.dumps, searched('bo', 25.0, 37.0))))
    (tmp_path / 'rotation-deit.jsonl').write_text('\n'.join(map(json.dumps, searched('adamw/seed0', 7.0, 36.0))))
    assert rotation_report.tuned_decay(Results(tmp_path), 'deit') == ([37.0], 25.0)
    (tmp_path / 'transfer-deit.jsonl').unlink()
    assert rotation_report.tuned_decay(Results(tmp_path), 'deit') == ([36.0], 7.0)


def _scan(group, values, lr=0.02):
    return [dict(group=group, seed=0, lr=lr * 2**k, value=value) for k, value in enumerate(values)]


def _final(group, value):
    return [dict(group=group, kind='finals'), dict(group=group, seed=3, value=value)]


def test_the_best_norm_to_clip_at_is_tested_and_stands_among_those_of_the_configs(tmp_path):
    lines = [*_scan('bccd/wd/1', [60.0, 61.0, 62.0]), *_scan('bccd/wd/1/higher', [70.0, 69.0], 0.16)]
    lines += [*_scan('bccd/wd/2', [50.0, 66.0, 51.0]), *_final('bccd/wd/2/test', 64.0)]  # an earlier choice
    lines += [*_scan('bccd/wd/10', [50.0, 65.0, 51.0]), *_final('bccd/wd/test', 71.0)]
    (tmp_path / 'rotation-clip.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    usual = [*_scan('wd-clip/seed0', [50.0, None, 73.0]), *_final('wd-clip/test', 69.0)]
    usual += [*_scan('wd/seed0', [50.0, 64.0, 60.0]), *_final('wd/test', 62.0)]
    (tmp_path / 'rotation-bccd.jsonl').write_text('\n'.join(map(json.dumps, usual)))
    rows = [row.split(' | ') for row in rotation_report.clip_table(Results(tmp_path)).splitlines()[2:]]
    assert [(row[2], row[3], row[4], row[5][:5]) for row in rows] == [
        ('1', '0.16', '70.0', '71.00'),
        ('2', '0.04', '66.0', '64.00'),
        ('5', '0.08 (edge)', '73.0', '69.00'),
        ('10', '0.04', '64.0', '62.00'),
    ]


@pytest.mark.parametrize(
    ('task', 'method', 'norm'),
    [
        ('bccd', 'wd', 10),
        ('bccd', 'wd-clip', 5),
        ('camvid', 'angle', 10),
        ('mobile', 'wd', math.inf),
        ('deit', 'adamw-clip', 1),
        ('convnext', 'sgd-clip', 1),
        ('convnext', 'sgd', math.inf),
    ],
)
def test_the_norm_to_clip_at_is_that_of_the_config(task, method, norm):
    assert rotation.clips_at(rotation.TASKS[task], method) == norm


def test_other_learning_rates_outside_the_set_stand_beside_the_own_at_the_best_angle(tmp_path):
    scans = [{**run, 'group': f'angle/seed{seed}'} for seed in range(3) for run in _scan('', [50.0, 60.0 + seed, 40.0])]
    (tmp_path / 'rotation-digits.jsonl').write_text('\n'.join(map(json.dumps, scans)))
    lines = [
        dict(group=f'digits/{factor:g}/seed{seed}', seed=seed, lr=0.04, value=value + seed)
        for factor, value in zip(rotation.OTHER_FACTORS['wd'], (57.0, 59.0, 20.0))
        for seed in range(3)
    ]
    (tmp_path / 'rotation-others.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    head, _, *rows = rotation_report.others_table(Results(tmp_path)).splitlines()
    assert head.split(' | ')[3:] == ['x 0.0625', 'x 0.25', 'x 1', 'x 4', 'x 16 |']
    assert [row.split(' | ')[1:] for row in rows] == [
        ['0.04', '20', '58.00 (sd 1.00)', '60.00 (sd 1.00)', '61.00 (sd 1.00)', '21.00 (sd 1.00)', ' |']
    ]


@pytest.mark.parametrize(('task', 'method'), [('mobile', 'wd'), ('deit', 'adamw-clip'), ('convnext', 'adamw-clip')])
def test_weight_decay_with_raised_norm_layers_differs_in_their_learning_rate_alone(task, method):
    pytest.importorskip('mmpretrain')
    file, options = rotation.trained_by(rotation.TASKS[task], method)
    found = []
    for changes in (options, {**options, **rotation.raised_by(4.0, tokens=task == 'deit')}):
        cfg = load_config(config_file(file))
        cfg.merge_from_dict(copy.deepcopy(changes))
        model = build_model(cfg)
        names = {id(p): name for name, p in model.named_parameters()}
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        found.append({names[id(p)]: (g['lr'], g['weight_decay']) for g in groups for p in g['params']})
    plain, raised = found
    assert plain.keys() == raised.keys()
    for name, (lr, weight_decay) in plain.items():
        factor = 1 if weight_decay else 4
        assert raised[name] == (factor * lr, weight_decay), name


def test_decays_beyond_the_range_of_a_search_stand_beside_the_one_that_it_has_found(tmp_path):
    lines = [*_scan('camvid/wd/0.03', [26.0]), *_scan('camvid/wd/0.1', [25.0]), *_final('camvid/wd/test', 24.0)]
    (tmp_path / 'rotation-decay.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    usual = [*_scan('wd/seed0', [24.0]), *_final('wd/test', 22.0)]
    (tmp_path / 'rotation-camvid.jsonl').write_text('\n'.join(map(json.dumps, usual)))
    rows = [row.split(' | ') for row in rotation_report.decay_table(Results(tmp_path)).splitlines()[2:]]
    assert [(row[2], row[4], row[5][:5]) for row in rows] == [
        ('0.01', '24.0', '22.00'),
        ('0.03', '26.0', '24.00'),
        ('0.1', '25.0', ''),
    ]


def test_the_angle_stands_beside_the_best_of_its_rivals(tmp_path):
    def tested(group, *values, lr=0.01):
        head = dict(group=group, kind='finals', point=[lr, None, None])
        return [head, *(dict(group=group, seed=seed, value=value) for seed, value in enumerate(values))]

    best, other = tested('lars/test', 61.0, 63.0), tested('wd/test', 50.0, 51.0)
    lines = [*tested('angle/test', 60.0, 64.0), *best, *other, *tested('angle-filter/test', 90.0, 91.0)]
    by_adamw = [*tested('angle/test', 30.0, 31.0), *tested('angle-other-lr/test', 60.0, 64.0, lr=0.02), *best]
    for name, own in {'bccd': lines, 'convnext': by_adamw}.items():
        (tmp_path / f'rotation-{name}.jsonl').write_text('\n'.join(map(json.dumps, own)))
    rows = rotation_report.summary_table(Results(tmp_path)).splitlines()[2:]
    gain = verdicts.difference([60.0, 64.0], [61.0, 63.0])
    as_converted = '62.00 (sd 2.83)'
    assert rows == [
        f'| bccd |  | 62.00 (sd 2.83) at 0.01 | lars: 62.00 (sd 1.41) | {gain} |',
        f'| convnext | {as_converted} | {as_converted} at 0.02 | lars: 62.00 (sd 1.41) | {gain} |',
    ]


def test_longer_trainings_stand_below_those_of_the_usual_length_where_both_were_run(tmp_path):
    def finals(group, value, lr=0.02):
        head = dict(group=group, kind='finals', point=[lr, None, None])
        return [head, *(dict(group=group, seed=i, value=value + 0.1 * i) for i in range(3))]

    files = {
        'rotation-bccd': [*finals('angle/test', 70.0), *finals('wd-clip/test', 60.0), *finals('lars/test', 65.0)],
        'rotation-longer': [*finals('bccd/angle/x3/test', 80.0, 0.01), *finals('bccd/wd-clip/x3/test', 79.0, 0.04)],
    }
    for name, lines in files.items():
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    rows = [row.split(' | ') for row in rotation_report.longer_table(Results(tmp_path)).splitlines()[2:]]
    assert [(row[1], row[2], row[3], row[4][:5], row[6][:6]) for row in rows] == [
        ('x 1', 'angle', '0.02', '70.10', ' |'),
        ('x 1', 'wd-clip', '0.02', '60.10', '-10.00'),
        ('x 3', 'angle', '0.01', '80.10', ' |'),
        ('x 3', 'wd-clip', '0.04', '79.10', '-1.00 '),
    ]
