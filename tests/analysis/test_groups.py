"""Runs by label: mean and spread over seeds."""

import statistics

import pytest

from mmfixnorm.analysis.groups import average, read_groups, unit_title
from mmfixnorm.errors import ConfigError


@pytest.fixture
def three_seeds(write_log, lines):
    """Work dirs of three runs; the last one was not trained to the end."""
    _, val = lines
    values = [[10.0, 40.0, 70.0], [20.0, 60.0, 80.0], [60.0, 80.0]]
    return [
        write_log([val(step, a=value) for step, value in enumerate(of_run, start=1)], name=f'seed{i}/wd')
        for i, of_run in enumerate(values)
    ]


def read_a(run):
    return run.series('val', 'a')


def test_a_label_given_several_times_is_the_mean_of_its_runs(three_seeds):
    (group,) = read_groups(three_seeds, ['WD'] * 3)
    curve = average(group, read_a)
    assert (curve.label, curve.x, curve.mean) == ('WD', [1, 2], [30.0, 60.0])  # where all three are
    assert curve.band == ([10.0, 40.0], [60.0, 80.0])
    assert curve.last == [40.0, 60.0, 80.0]
    assert curve.ending() == '60 (standard deviation 20; runs: 40, 60, 80)'


def test_the_other_band_is_the_sample_standard_deviation(three_seeds):
    (group,) = read_groups(three_seeds, ['WD'] * 3)
    low, high = average(group, read_a, 'std').band
    expected = statistics.stdev([10.0, 20.0, 60.0])
    assert (low[0], high[0]) == pytest.approx((30 - expected, 30 + expected))


def test_a_single_run_has_no_band_and_groups_keep_the_order_given(three_seeds):
    groups = read_groups(three_seeds, ['b', 'a', 'b'])
    assert [(group.label, len(group.runs)) for group in groups] == [('b', 2), ('a', 1)]
    curve = average(groups[1], read_a)
    assert curve.band is None
    assert curve.ending() == '80'
    assert unit_title(groups) == 'epoch'


def test_mistakes_are_named(three_seeds, write_log):
    by_iter = write_log([{'a': 1.0, 'step': 9}], name='iters', config='train_cfg = dict(max_iters=9)\n')
    for work_dirs, labels, message in [
        (three_seeds, None, 'several work dirs have the same name .*: give --labels'),
        (three_seeds, ['a', 'b'], '--labels: must be one for each of the 3 work dirs, got 2'),
        ([three_seeds[0]] * 2, ['a', 'a'], 'is given twice'),
        ([three_seeds[0], by_iter], None, 'some runs count epochs and others iterations'),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_groups(work_dirs, labels)


def test_runs_of_a_label_need_common_positions(write_log, lines):
    _, val = lines
    dirs = [write_log([val(step, a=1.0)], name=f'r{step}') for step in (1, 2)]
    (group,) = read_groups(dirs, ['a', 'a'])
    with pytest.raises(ConfigError, match="the runs of 'a' have no position in common"):
        average(group, read_a)
