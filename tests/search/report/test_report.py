"""Curves, tables and files about a search."""

from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.config import Config

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.record.state import duration, ledger, search_state, stage_costs
from mmfixnorm.search.report import trials as report_trials
from mmfixnorm.search.report import write_report
from mmfixnorm.search.report.curves import alpha_curves, fit_curve, lr_curves, ramp_curve, validation_curves
from mmfixnorm.search.report.figures import draw_ramp
from mmfixnorm.search.report.trials import end_of, shown_rows
from mmfixnorm.search.report.winner import winner_diff
from mmfixnorm.search.trial.folder import read_angles


@pytest.fixture
def searched(make_search):
    """A whole search on the formula of the fake trial, with diverged trainings."""
    search = make_search()
    search.run('diverge-high', workers=4)
    return search.problem(), search.record()


def test_the_bound_shrinks_from_round_to_round(searched):
    problem, record = searched
    first, second = lr_curves(search_state(problem, record))
    assert (first.lr_min, first.lr_max, first.best_lr) == (0.2, 3.2, 1.4)
    assert (second.lr_min, second.lr_max, second.best_lr) == (0.2, 1.4, 1.1)
    assert first.lrs == [0.8, 1.4, 2.0, 2.6, 3.2]
    assert first.values[3:] == [None, None]
    assert first.diverged == [2.6, 3.2]


def test_the_alpha_curve_begins_with_the_training_of_phase_1(searched):
    problem, record = searched
    (curve,) = alpha_curves(search_state(problem, record), 'greater')
    assert (curve.lr, curve.alphas) == (1.1, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    assert curve.values[3] == max(curve.values) == 90
    assert curve.lengths == [1.0] * 6


def test_progress_never_falls_and_ends_at_11_t_max(searched):
    problem, record = searched
    cost, best = search_state(problem, record).progress
    known = [b for b in best if b is not None]
    assert known == sorted(known)
    assert (len(cost), cost[-1], best[-1]) == (15, 11.0, 90.0)


def test_a_failed_attempt_costs_nothing_more(make_search, small):
    search = make_search(small)
    search.run('kill-once')
    costs = ledger(search.record().attempts)
    assert len(costs) == 6
    assert costs[-1] == 2 * 0.2 + 2 + 1
    row = next(r for r in search_state(search.problem(), search.record()).rows if r.key == 'r0-k1')
    assert row.attempts == 2


def test_rows_come_in_the_order_of_the_plan(searched):
    problem, record = searched
    keys = [row.key for row in search_state(problem, record).rows]
    assert keys[:5] == [f'r0-k{k}' for k in range(5)]
    assert keys[-5:] == [f'alpha-{i}' for i in range(1, 6)]


def test_the_report_is_one_file_that_needs_no_network(searched):
    problem, record = searched
    page = write_report(problem, record).report.read_text()
    assert page.count('<div class="figure">') == 3
    assert '<script src=' not in page
    assert 'src="http' not in page
    assert page.count('<link') == page.count('<link rel="icon" href="data:,">') == 1
    assert 'winner: lr 1.1, alpha 4: accuracy/top1 90 (11 of 11 T_max' in page
    assert page.count('<td>r0-k') == 5
    assert '<span class="add">+model = dict(head=dict(alpha=4.0' in page
    assert 'It took ' in page


def test_a_report_in_the_middle_of_a_search_shows_what_there_is(make_search, small):
    search = make_search(small + ', max_attempts=1')
    search.run('fail-r0-k1')
    files = write_report(search.problem(), search.record())
    assert 'no stage has finished yet' in files.report.read_text()
    assert files.best_config is None


def test_the_winning_config_is_a_child_that_sets_what_differs(searched):
    problem, record = searched
    path = write_report(problem, record).best_config
    assert '_base_ = [' in path.read_text()
    best = Config.fromfile(path)
    assert (best.optim_wrapper.optimizer.lr, best.model.head.alpha) == (1.1, 4.0)
    assert best.train_cfg == problem.cfg.train_cfg


def test_options_of_the_command_line_are_part_of_the_winning_config(make_search, small):
    search = make_search(small)
    search.run(optim_wrapper__optimizer__type='Adam')
    problem = search.problem(optim_wrapper__optimizer__type='Adam')
    best = Config.fromfile(write_report(problem, search.record()).best_config)
    assert best.optim_wrapper.optimizer.type == 'Adam'


def test_a_winner_in_a_list_is_written_as_the_whole_config(make_search, write_config):
    search = make_search("lr_range=(0.2, 3.2), num_splits=2, alphas=[1.0], alpha_key='model.heads.0.alpha'")
    with open(search.config, 'a') as f:
        f.write('model = dict(heads=[dict(alpha=2.0)])\n')
    search.run()
    path = write_report(search.problem(), search.record()).best_config
    assert '_base_' not in path.read_text()
    assert Config.fromfile(path).model.heads[0].alpha == 1.0


ONE = "type='GridSearch', lrs=[0.4], alphas=[3.0]"


def test_the_winner_of_a_config_in_pure_python_is_in_full(make_search):
    search = make_search(ONE)
    text = Path(search.config).read_text().replace("type='SGD'", 'type=SGD')
    Path(search.config).write_text(f'from torch.optim import SGD\n{text}')
    search.run()
    best = Config.fromfile(write_report(search.problem(), search.record()).best_config)
    assert (best.optim_wrapper.optimizer, best.model.head.alpha) == (dict(type='torch.optim.SGD', lr=0.4), 3.0)


def test_the_winner_finds_its_base_from_behind_a_link(make_search, tmp_path):
    search = make_search(ONE)
    (tmp_path / 'disk/deep/runs').mkdir(parents=True)
    search.work_dir.symlink_to(tmp_path / 'disk/deep/runs')
    search.run()
    best = Config.fromfile(write_report(search.problem(), search.record()).best_config)
    assert (best.optim_wrapper.optimizer.lr, best.model.head.alpha) == (0.4, 3.0)


def test_the_difference_shows_the_two_values_alone(searched):
    problem, record = searched
    lines = winner_diff(problem, search_state(problem, record).best)
    changed = [line for line in lines if line[:1] in '+-' and line[:3] not in ('+++', '---')]
    assert sorted(changed) == [
        "+model = dict(head=dict(alpha=4.0, type='Head'))",
        "+optim_wrapper = dict(optimizer=dict(lr=1.1, type='SGD'))",
        "-model = dict(head=dict(alpha=1.0, type='Head'))",
        "-optim_wrapper = dict(optimizer=dict(lr=0.1, type='SGD'))",
    ]


def test_a_grid_has_a_curve_for_each_alpha(make_search):
    search = make_search("type='GridSearch', lrs=[0.4, 1.0, 1.6], alphas=[1.0, 4.0]")
    search.run()
    problem, state = search.problem(), search_state(search.problem(), search.record())
    assert [c.name for c in lr_curves(state)] == ['alpha 1', 'alpha 4']
    assert [c.lr for c in alpha_curves(state, 'greater')] == [0.4, 1.0, 1.6]
    assert write_report(problem, search.record()).report.exists()


def test_a_grid_over_lr_alone_has_no_alpha_curve(make_search):
    search = make_search("type='GridSearch', lrs=[0.4, 1.0]")
    search.run()
    state = search_state(search.problem(), search.record())
    assert alpha_curves(state, 'greater') == []
    assert write_report(search.problem(), search.record()).best_config


def test_the_report_shows_the_ramp_and_the_fit_with_its_band(make_search):
    search = make_search("type='LRFitSearch'")
    search.run()
    problem, record = search.problem(), search.record()
    state = search_state(problem, record)
    ramp, fit = ramp_curve(record.attempts), fit_curve(problem.settings, state)
    assert (ramp.lr_range, len(ramp.lrs)) == ((0.2, 3.2), 6)
    assert ramp.largest == pytest.approx([10 * angle for angle in ramp.angles])
    lr = state.best.point.lr
    near = min(range(len(fit.lrs)), key=lambda i: abs(fit.lrs[i] - lr))
    assert fit.low[near] <= fit.means[near] <= fit.high[near]
    assert fit.means[near] == pytest.approx(state.best.value, abs=5)
    page = write_report(problem, record).report.read_text()
    assert 'ramp of the learning rate' in page
    assert 'fit, one standard deviation' in page
    assert 'by the fit' in page  # how sure the choice is


def test_the_ramp_of_an_older_search_or_one_that_exploded_is_drawn(make_search):
    search = make_search("type='LRFitSearch'")
    search.run()
    attempts = search.record().attempts
    assert len(draw_ramp(ramp_curve(attempts)).data) == 3  # loss, angle of all weights, that of a layer
    first = next(attempt for attempt in attempts if attempt.result.ramp)

    def with_steps(steps):
        return ramp_curve([replace(first, result=replace(first.result, ramp={**first.result.ramp, 'steps': steps}))])

    steps = first.result.ramp['steps']
    older = with_steps([step[:3] for step in steps])
    assert (older.largest, len(draw_ramp(older).data)) == ([], 2)
    exploded = draw_ramp(with_steps([*steps, [6.4, None, None, None]]))  # at a loss that is not finite
    assert [curve.y[-1] for curve in exploded.data] == [None, None, None]
    assert with_steps([]) is None


def test_other_searches_have_neither_ramp_nor_fit(searched):
    problem, record = searched
    assert ramp_curve(record.attempts) is None
    assert fit_curve(problem.settings, search_state(problem, record)) is None


def test_of_too_many_trials_the_best_are_shown_in_the_order_of_the_plan(searched, monkeypatch):

    rows = search_state(*searched).rows
    assert shown_rows(rows, 'greater', most=99) == rows
    values = sorted((row.value for row in rows if row.value is not None), reverse=True)
    best = shown_rows(rows, 'greater', most=3)
    assert [row.key for row in best] == [row.key for row in rows if row in best]
    assert sorted((row.value for row in best), reverse=True) == values[:3]
    assert sorted(row.value for row in shown_rows(rows, 'less', most=3)) == values[::-1][:3]
    monkeypatch.setattr(report_trials, 'shown_rows', lambda rows, rule: shown_rows(rows, rule, most=3))
    page = write_report(*searched).report.read_text()
    assert page.count('<details>') == 3
    assert f'The 3 best trials; <code>search export</code> has the other {len(rows) - 3} too.' in page


@pytest.mark.parametrize(('seconds', 'text'), [(0.2, '0 s'), (59.6, '1 min'), (3725, '1 h 2 min 5 s')])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_the_ledger_by_stage_adds_up_and_shows_lost_attempts(make_search, small):
    search = make_search(small)
    search.run('kill-once')
    costs = stage_costs(search.problem(), search.record().attempts)
    assert [(c.name, c.trainings, c.planned, c.cost, c.lost) for c in costs] == [
        ('round 0', 2, 2, 0.4, 1),
        ('round 1', 2, 2, 2.0, 0),
        ('alpha', 1, 1, 1.0, 0),
    ]
    page = write_report(search.problem(), search.record()).report.read_text()
    assert 'attempt 1: failed, its process was killed by signal 9' in page


def test_every_trial_has_its_curve_also_one_that_failed(make_search, small):
    search = make_search(small + ', max_attempts=1')
    search.run('fail-r0-k1')
    problem = search.problem()
    (problem.trial_dir('r0-k1') / 'curve.jsonl').write_text('[1, 50.0]\n[2, NaN]\n[3, 6')
    (curve,) = validation_curves(problem, search.record().attempts)
    assert (curve.key, curve.stage, curve.steps, curve.values) == ('r0-k1', 'round 0', [1, 2], [50.0, None])


def test_long_curves_are_thinned_out_and_keep_their_end(searched):
    problem, record = searched
    for attempt in record.attempts:
        lines = [f'[{step}, {step}.5]\n' for step in range(1, 102)]
        (problem.trial_dir(attempt.spec.key) / 'curve.jsonl').write_text(''.join(lines))
    curves = validation_curves(problem, record.attempts, max_points=150)
    assert sum(len(c.steps) for c in curves) <= 150
    assert {(c.steps[-1], c.values[-1]) for c in curves} == {(101, 101.5)}


@pytest.mark.parametrize('limit', [0, 10, 100, 10_000])
def test_the_end_of_a_log_is_escaped_whole_lines_within_its_limit(limit):
    log = '\x1b[32mgreen\x1b[0m <b>\n' + 'é & é\n' * 50 + 'bar 1%\rbar 99%\n'
    shown = end_of(log, limit)
    assert len(shown.encode()) <= limit
    lines = ['green &lt;b&gt;', *['é &amp; é'] * 50, 'bar 1%bar 99%']
    assert shown.split('\n') == lines[len(lines) - len(shown.split('\n')) :] or not shown


def test_several_searches_stand_side_by_side_from_their_records_alone(make_search, small, tmp_path):
    ours, grid = make_search(small), make_search("type='GridSearch', lrs=[0.4, 1.1]", name='grid')
    grid_config = grid.config
    grid.run()
    ours = make_search(small)
    ours.run()
    page = write_report(ours.problem(), ours.record(), compare=[grid.work_dir]).report.read_text()
    assert grid_config == ours.config  # the grid's config is gone
    assert '<tr><td>grid</td><td>GridSearch</td><td class="number">90.0</td><td>lr 1.1</td>' in page
    assert page.count('"name":"grid"') == 1


def test_searches_for_another_metric_are_not_compared(make_search, small):
    other = make_search(small + ", metric='loss', rule='less'", name='other')
    other.run()
    search = make_search(small)
    search.run()
    with pytest.raises(ConfigError, match="cannot be compared(.|\n)*other: loss, rule 'less'"):
        write_report(search.problem(), search.record(), compare=[other.work_dir])


def write_scalars(trial_dir, start, lines):
    folder = trial_dir / 'run' / start / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(f'{line}\n' for line in lines))


def test_the_angles_of_a_trial_are_read_over_all_its_starts(tmp_path):
    assert read_angles(tmp_path) == {}
    first = ['{"angle": 0.5, "iter": 2}', '{"loss": 1.0, "iter": 3}', '{"angle": 0.25, "iter": 4}']
    of_layers = '{"weight_norm/conv.weight": 1.0, "angle/conv.weight": 9.0, "step": 4}'
    write_scalars(tmp_path, '20260101_000000', [*first, of_layers, '{"angle": 0.125, "iter": 6}', '{"angle": 0.1, "it'])
    write_scalars(tmp_path, '20260101_000001', ['{"train/angle": 0.375, "iter": 4}', '{"angle": NaN, "iter": 8}'])
    assert read_angles(tmp_path) == {2: 0.5, 4: 0.375}


def test_the_trials_have_their_median_angle_where_it_was_logged(searched):
    problem, record = searched
    assert 'rad per step' not in write_report(problem, record).report.read_text()
    lines = [f'{{"angle": {angle}, "iter": {i}}}' for i, angle in enumerate((0.001, 0.0375, 0.2), start=1)]
    write_scalars(problem.trial_dir('r0-k1'), '20260101_000000', lines)
    page = write_report(problem, record).report.read_text()
    assert page.count('<th class="number">rad per step</th>') == 1
    assert page.count('<td class="number">0.0375</td>') == 1
