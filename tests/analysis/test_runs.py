"""Reading the logs of trainings: resumed, killed, by epochs and by iterations."""

import json

import pytest

from mmfixnorm.analysis.runs import read_run
from mmfixnorm.errors import ConfigError

BY_ITER = 'train_cfg = dict(by_epoch=False, max_iters=100)\n'


def test_training_lines_are_parts_of_an_epoch_and_validation_comes_after_it(write_log, lines):
    train, val = lines
    log = [
        *(train(1, i, g=0.1 * i) for i in (2, 4)),
        val(1, **{'accuracy/top1': 30.0, 'g': 7.0}),
        {'weight_norm/conv.weight': 3.0, 'step': 6},
        {'weight_norm/conv.weight': 3.0, 'angle/conv.weight': 0.1, 'step': 6},
        *(train(2, i, g=0.1 * i) for i in (2, 4)),
        val(2, **{'accuracy/top1': 50.0, 'g': 8.0}),
    ]
    run = read_run(write_log(log))
    assert run.series('train', 'g') == ([0.5, 1.0, 1.5, 2.0], [0.2, 0.4, 0.2, 0.4])
    assert run.series('val', 'g') == ([1, 2], [7.0, 8.0])
    assert run.series('val', 'accuracy/top1') == ([1, 2], [30.0, 50.0])
    assert run.unit == 'epochs'


def test_what_a_resumed_run_did_again_replaces_the_first_try(write_log, lines):
    train, val = lines
    first = [train(1, 4, g=1.0), val(1, a=1.0), train(2, 2, g=2.0), train(2, 4, g=2.5), val(2, a=2.0)]
    second = [train(2, 1, g=20.0), train(2, 4, g=25.0), val(2, a=20.0), train(3, 4, g=30.0)]
    write_log(first, start='20260101_000000')
    run = read_run(write_log(second, start='20260101_000009'))
    assert [line['g'] for line in run.train_lines] == [1.0, 20.0, 25.0, 30.0]
    assert run.series('val', 'a') == ([1, 2], [1.0, 20.0])


def test_validations_that_the_second_try_has_not_reached_are_gone(write_log, lines):
    train, val = lines
    log = [train(1, 4), val(1, a=1.0), train(2, 4), val(2, a=2.0), train(3, 4), val(3, a=3.0), train(2, 4)]
    assert read_run(write_log(log)).series('val', 'a') == ([1], [1.0])


def test_a_resumed_run_that_starts_after_the_last_line_loses_nothing(write_log, lines):
    train, val = lines
    write_log([train(1, 2), val(1, a=1.0)], start='20260101_000000')
    run = read_run(write_log([train(2, 2), val(2, a=2.0)], start='20260102_000000'))
    assert len(run.train_lines) == 2
    assert run.series('val', 'a') == ([1, 2], [1.0, 2.0])


def test_a_last_line_cut_off_by_a_kill_is_left_out(write_log, lines):
    train, _ = lines
    cut = json.dumps(train(2, 4, g=3.0))[:25]
    run = read_run(write_log([train(1, 4, g=1.0), train(2, 2, g=2.0), cut]))
    assert [line['g'] for line in run.train_lines] == [1.0, 2.0]


def test_a_broken_line_in_the_middle_is_an_error(write_log, lines):
    train, _ = lines
    with pytest.raises(ConfigError, match=r'scalars\.json:2: not a line of JSON'):
        read_run(write_log([train(1, 4), '{"g": 1.0, "st\n', train(2, 4)]))


def test_runs_by_iterations_count_them_in_both_kinds_of_lines(write_log):
    log = [{'g': 1.0, 'iter': 10, 'step': 10}, val_at_iteration(20), {'g': 2.0, 'iter': 30, 'step': 30}]
    run = read_run(write_log(log, config=BY_ITER))
    assert run.series('train', 'g') == ([10, 30], [1.0, 2.0])
    assert run.series('val', 'mIoU') == ([20], [40.0])
    assert run.unit == 'iters'


def val_at_iteration(step):
    return {'mIoU': 40.0, 'time': 0.1, 'step': step}


def test_a_run_by_iterations_that_logs_metrics_by_epoch_is_told_what_to_set(write_log):
    run = read_run(write_log([{'g': 1.0, 'iter': 10, 'step': 10}, val_at_iteration(0)], config=BY_ITER))
    with pytest.raises(ConfigError, match='log_metric_by_epoch=False'):
        run.series('val', 'mIoU')


def test_validation_logged_by_iteration_is_turned_into_epochs(write_log, lines):
    train, val = lines
    config = 'train_cfg = dict(max_epochs=2)\ndefault_hooks = dict(logger=dict(log_metric_by_epoch=False))\n'
    run = read_run(write_log([train(1, 4), val(4, a=1.0), train(2, 4), val(8, a=2.0)], config=config))
    assert run.series('val', 'a') == ([1.0, 2.0], [1.0, 2.0])


def test_prefixes_of_a_log_with_hierarchy_are_taken_off(write_log):
    log = [{'train/g': e, 'epoch': e, 'iter': 4 * e, 'step': 4 * e} for e in (1, 2)]
    run = read_run(write_log([*log, {'val/accuracy/top1': 9.0, 'step': 2}]))
    assert run.series('train', 'g') == ([1.0, 2.0], [1.0, 2.0])
    assert run.series('val', 'accuracy/top1').y == [9.0]


@pytest.mark.parametrize(
    ('mode', 'key', 'message'),
    [
        ('train', 'weight_norm', "no train line has 'weight_norm' .* WeightNormLoggerHook in custom_hooks writes it"),
        ('val', 'mcbr', "no val line has 'mcbr' .* CrossBoundaryRiskHook in custom_hooks writes it"),
        ('val', 'accuracy/top5', r"no val line has 'accuracy/top5' \(they have: a, data_time, step, time\)$"),
        ('train', 'loss', '1 epoch.* expected two consecutive epochs'),
    ],
)
def test_what_is_not_in_the_log_is_named(write_log, lines, mode, key, message):
    train, val = lines
    run = read_run(write_log([train(1, 4, loss=1.0), val(1, a=1.0)]))
    with pytest.raises(ConfigError, match=message):
        run.series(mode, key)


def test_epochs_that_changed_their_length_are_refused(write_log, lines):
    train, _ = lines
    log = [train(e, 4) for e in (1, 2, 3)] + [train(4, 9, length=9)]
    with pytest.raises(ConfigError, match='iteration 36 is logged in epoch 4, but an epoch has 4 iterations'):
        read_run(write_log(log)).series('train', 'lr')


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'no log of a training here \(looked for <timestamp>/vis_data/scalars.json'):
        read_run(tmp_path)


def test_a_log_without_its_config_is_refused(write_log, lines):
    work_dir = write_log([lines[0](1, 4)])
    next(work_dir.glob('*/vis_data/config.py')).unlink()
    with pytest.raises(ConfigError, match=r'config\.py: missing'):
        read_run(work_dir)
