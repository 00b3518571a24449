"""What a report says about its own results, and how its figures and tables show them."""

import json
import re

import pytest

from mmfixnorm.search._utils.numbers import column
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.report import write_report
from mmfixnorm.search.report.remarks import known_noise, remarks, step_of
from mmfixnorm.search.trial.folder import read_log_end
from tests.pages import figures_of

DEFAULT = 'lr_range=(0.2, 3.2)'
SMALL = 'lr_range=(0.2, 3.2), num_splits=2, alphas=[1.0, 4.0]'
BO = "type='BayesianSearch', sampler='tpe', num_trials=4, alpha_range=(0.5, 16.0)"


def remarks_of(search):
    problem, record = search.problem(), search.record()
    return remarks(problem, search_state(problem, record), record.attempts)


# Values by hand: 90 at lr 1.1 and alpha 4, less log(alpha / 4)^2: 85.68, 88.08, 89.52, 90, 89.52, 88.08.
# Seeds that add -1, 0, 1 to two points: sd 1, so t(0.975, 4) * sqrt(2) = 2.776 * 1.414 = 3.926.
@pytest.mark.parametrize(
    ('block', 'mode', 'expected'),
    [
        (DEFAULT, 'plain', ['is not known: the nearest of the 9 others of its length differs from it by 0.48']),
        (
            DEFAULT + ', confirm_seeds=3',
            'seeds',
            ['within noise of 4 of the 9 others of its length (alpha-1, '],
        ),
        (DEFAULT, 'images', ['is not known: 4 of the 9 others of its length', 'the metric moves in steps of 2.5']),
        (DEFAULT, 'tie', ['at lr 0.8 the 5 alphas from 1 to 16 gave exactly the same value']),
        (SMALL, 'kill-once', ['1 attempt ended without a result, after ']),
        (DEFAULT, 'diverge-high', ['2 trainings of 15 diverged, after ', 'the lowest learning rate among them is 2.6']),
        (DEFAULT, 'diverge-all', ['5 trainings of 5 diverged, after ']),
    ],
)
def test_a_report_says_how_sure_its_winner_is(make_search, block, mode, expected):
    search = make_search(block)
    search.run(mode, workers=4)
    told = '\n'.join(remarks_of(search))
    assert [words for words in expected if words not in told] == []
    page = write_report(search.problem(), search.record()).report.read_text()
    assert page.count('<li>') == len(told.split('\n'))


def test_the_noise_of_new_seeds_is_their_pooled_deviation(make_search):
    search = make_search(SMALL + ', confirm_seeds=3')
    search.run('seeds')
    noise = known_noise(search_state(search.problem(), search.record()))
    assert noise.margin == pytest.approx(2.77645 * 2**0.5, rel=1e-5)
    assert noise.from_seeds


def test_a_flat_figure_over_alpha_is_within_the_noise_that_is_known(make_search):
    # log(2)^2 = 0.48 and log(4)^2 = 1.9 are less than 3.9.
    search = make_search('lr_range=(0.2, 3.2), alphas=[1.0, 2.0, 4.0], confirm_seeds=3')
    search.run('seeds', workers=4)
    (flat,) = [text for text in remarks_of(search) if 'flat' in text]
    assert 'the 3 alphas from 1 to 4 differ by at most 1.92, which is within noise' in flat


def test_a_bound_that_shorter_trainings_have_set_is_told(make_search):
    # The fake's best learning rate is 1.1, above all that a first round of 0.1 to 0.9 leaves below its best.
    search = make_search('lr_range=(0.1, 0.9), alphas=[4.0], num_splits=4')
    search.run('short-low')
    assert any('is the highest that round 0 left to round 1' in text for text in remarks_of(search))


@pytest.mark.parametrize(
    ('values', 'step'),
    [
        ([100 * k / 150 for k in (80, 82, 90, 91, 120)], 100 / 150),
        ([53.333335876464844, 66.66666412353516, 60.0, 46.66666793823242, 73.33333587646484], 100 / 15),
        ([0.5123, 0.5234, 0.5471, 0.5513, 0.60211], None),
        ([50.0, 60.0], None),
        ([], None),
    ],
)
def test_the_steps_of_a_metric_are_found_or_not_claimed(values, step):
    assert step_of(values) == (None if step is None else pytest.approx(step, rel=1e-5))


@pytest.mark.parametrize(
    ('block', 'number', 'place'),
    [(DEFAULT, 4, (1.1, 4.0)), ("type='GridSearch', lrs=[0.4, 1.1], alphas=[1.0, 4.0]", 4, (1.1, 4.0)), (BO, 4, None)],
)
def test_a_star_marks_the_winner_in_each_figure(make_search, block, number, place):
    search = make_search(block)
    search.run(workers=4)
    problem, record = search.problem(), search.record()
    for attempt in record.attempts:
        last = json.dumps([10, attempt.result.value])
        (problem.trial_dir(attempt.spec.key) / 'curve.jsonl').write_text(f'[5, 40.0]\n{last}\n')
    figures = figures_of(write_report(problem, record).report.read_text())
    best = search_state(problem, record).best
    stars = [[t for t in figure['data'] if t.get('name') == f'winner: {best.key}'] for figure in figures]
    assert [len(of_figure) for of_figure in stars] == [1] * number
    assert all(star['marker']['symbol'] == 'star' for (star,) in stars)
    over_lr, second, progress, validations = [(star['x'][0], star['y'][0]) for (star,) in stars]
    assert over_lr == (best.point.lr, best.value)
    assert second == ((best.point.lr, best.point.alpha) if block == BO else (best.point.alpha, best.value))
    assert progress[1] == validations[1] == best.value
    assert validations[0] == 10
    assert place in (None, (best.point.lr, best.point.alpha))


def test_the_axis_of_the_learning_rate_is_logarithmic(make_search):
    search = make_search(SMALL)
    search.run()
    figure, *_ = figures_of(write_report(search.problem(), search.record()).report.read_text())
    axis = figure['layout']['xaxis']
    assert (axis['type'], axis['title']['text']) == ('log', 'learning rate')
    assert {0.2, 0.5, 1, 2} <= set(axis['tickvals'])


@pytest.mark.parametrize(
    ('values', 'shown'),
    [
        ([53.333335876464844, 60.0, None], ['53.33', '60.00', '']),
        ([0.8, 1.4, 2.0], ['0.8', '1.4', '2.0']),
        ([0.5345, 0.0123, 0.0], ['0.5345', '0.0123', '0.0000']),
        ([1000.5, 3.25], ['1000.5', '3.2']),
        ([1e-05, 0.0137], ['1.00e-05', '0.0137']),
        ([3.0, 200.0], ['3', '200']),
        ([-0.25, -1.5], ['-0.25', '-1.50']),
        ([], []),
    ],
)
def test_a_column_has_one_number_of_decimals(values, shown):
    assert column(values) == shown


def test_no_table_of_a_report_mixes_numbers_of_decimals(make_search):
    search = make_search(DEFAULT)
    search.run(workers=4)
    page = write_report(search.problem(), search.record()).report.read_text()
    tables = re.findall('<table>.*?</table>', page, re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        rows = [re.findall('<td class="number">(.*?)</td>', row) for row in table.split('<tr')[2:]]
        for cells in zip(*rows, strict=True):
            decimals = {len(cell.partition('.')[2]) for cell in cells if re.fullmatch(r'[\d.]+', cell)}
            assert len(decimals) <= 1, cells


TIME = '11/29 05:41:14 - mmengine - INFO -'
LOG = f"""trial in trials/r0-k0, 1 threads
{TIME}\x20
------------------------------------------------------------
System environment:
    sys.platform: linux
{TIME} Config:
auto_scale_lr = dict(base_batch_size=64, enable=False)
{TIME} Hooks will be executed in the following order:
before_run:
(VERY_HIGH   ) RuntimeInfoHook
{TIME} Epoch(train) [1][16/16]  loss: 2.3137
"""
TRACEBACK = 'Traceback (most recent call last):\n  File "own.py", line 3\nValueError: too few images\n'


@pytest.mark.parametrize('size', [80, 8000])
@pytest.mark.parametrize('end', ['', TRACEBACK])
def test_the_end_of_a_log_is_not_the_config(tmp_path, size, end):
    (tmp_path / 'log.txt').write_text(LOG + end)
    shown = read_log_end(tmp_path / 'log.txt', size)
    assert not re.search('auto_scale_lr|RuntimeInfoHook|sys.platform', shown)
    assert shown.endswith((f'{TIME} Epoch(train) [1][16/16]  loss: 2.3137\n' + end).rstrip())


def test_a_traceback_right_after_the_config_is_shown(tmp_path):
    (tmp_path / 'log.txt').write_text(LOG.split(f'{TIME} Hooks')[0] + TRACEBACK)
    assert read_log_end(tmp_path / 'log.txt', 8000).splitlines()[-1] == 'ValueError: too few images'


def test_a_killed_training_is_told_with_what_it_did_last(make_search):
    search = make_search(SMALL + ', max_attempts=1')
    log = search.problem().trial_dir('r0-k0') / 'log.txt'
    log.parent.mkdir(parents=True)
    log.write_text(LOG.split(f'{TIME} Epoch')[0].replace('trial in', f'{TIME} Saving checkpoint\ntrial in'))
    message = search.run('fail-r0-k0').message
    assert 'out of memory, says the fake' in message
    assert 'RuntimeInfoHook' not in message
