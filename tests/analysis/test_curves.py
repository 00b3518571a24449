"""The figures of trainings, from logs with known numbers."""

import math

import numpy as np
import pytest

from mmfixnorm.analysis.conv_norm import conv_norm
from mmfixnorm.analysis.curves import accuracy_chart, classifier_scale_chart, weight_norm_chart
from mmfixnorm.analysis.groups import read_groups
from mmfixnorm.analysis.runs import read_run
from mmfixnorm.errors import ConfigError

HOOKS = (
    "custom_hooks = [dict(type='WeightNormLoggerHook', interval=2{}), "
    "dict(type='CrossBoundaryRiskHook', interval=2{})]\n"
)
FIXING = ('FixNormAmp', 'PerLayerFixNorm', 'HyperballAmp', 'Rotational')
CONV_ONLY = 'train_cfg = dict(max_epochs=4)\n' + HOOKS.format(', fc=False', '')


def config(*, wrapper='OptimWrapper', head='LinearClsHead', options='', norm_hook='', risk_hook='', more=''):
    return (
        'train_cfg = dict(max_epochs=4)\n'
        f"model = dict(type='ImageClassifier', head=dict(type='{head}'))\n"
        f"optim_wrapper = dict(type='{wrapper}', paramwise_cfg=dict({options}))\n"
        + HOOKS.format(norm_hook, risk_hook)
        + more
    )


@pytest.fixture
def norms(write_log, lines):
    """A run that logs a norm of 5 and a final layer of 3."""
    train, _ = lines

    def write(text):
        return read_run(write_log([train(e, 4, weight_norm=5.0, g=3.0) for e in (1, 2)], config=text))

    return write


@pytest.mark.parametrize(
    'text',
    [
        config(norm_hook=', fc=False'),
        config(norm_hook=', fc=False').replace('WeightNormLoggerHook', 'WeightNormHook'),  # a run of before the name
        config(wrapper='FixNormOptimWrapper', options='lambda_fc=1e-4'),
        *(config(wrapper=f'{name}OptimWrapper', options='lambda_fc=1e-4') for name in FIXING),
        config(options='lambda_fc=1e-4', more="optim_wrapper.update(constructor='FixNormOptimWrapperConstructor')\n"),
        config(more="custom_hooks += [dict(type='FixNormHook', fc=False)]\n"),
    ],
)
def test_a_norm_that_was_logged_for_convolutions_alone_is_taken_as_it_is(norms, text):
    assert conv_norm(norms(text)) == (([1.0, 2.0], [5.0, 5.0]), '')


def test_the_final_layer_is_taken_out_of_a_norm_that_counts_it(norms):
    series, how = conv_norm(norms(config()))
    assert series == ([1.0, 2.0], [4.0, 4.0])  # 3, 4, 5
    assert 'is removed' in how


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (config(wrapper='FixNormOptimWrapper', head='FixNormLinearClsHead'), 'convolutions and linear layers together'),
        *((config(wrapper=f'{name}OptimWrapper'), 'convolutions and linear layers together') for name in FIXING),
        (config(more="custom_hooks += [dict(type='FixNormHook')]\n"), 'convolutions and linear layers together'),
        (config(head='WNLinearClsHead'), 'of a weight-normalised layer only g is logged'),
        (config(risk_hook='0'), 'with the same interval and no layer'),
        (config(risk_hook=", layer='fc'"), 'with the same interval and no layer'),
    ],
)
def test_a_norm_whose_linear_part_is_not_known_is_refused(norms, text, message):
    with pytest.raises(ConfigError, match=message):
        conv_norm(norms(text))


@pytest.fixture
def falling(write_log, lines):
    """A run by epochs whose norm halves over 10 epochs and stays there for 20 more."""
    train, _ = lines
    norm = [80 * 0.5 ** (min(e, 10) / 10) for e in range(31)]
    return write_log([train(e, 4, weight_norm=norm[e]) for e in range(1, 31)], name='wd', config=CONV_ONLY)


def test_fig_1_left_has_the_norm_and_a_boundary_between_its_two_parts(falling):
    chart = weight_norm_chart(read_groups([falling]))
    (panel,) = chart.panels
    assert (panel.x_title, panel.y_title) == ('epoch', '‖W_Conv‖₂')
    measured, fit = panel.lines
    assert (measured.x, measured.name) == ([float(e) for e in range(1, 31)], 'wd')
    np.testing.assert_allclose(fit.y, measured.y, rtol=1e-10)
    ((boundary),) = panel.boundaries
    assert (boundary.x, boundary.shaded) == (10.0, True)
    slope = 100 * math.log(0.5) / 10
    assert f'first part up to epoch 10: 74.64 -> 40, -46.4 % ({slope:.3g} % per epoch)' in chart.notes[0]
    assert 'second part: 40 -> 40, ' in chart.notes[0]


def test_a_norm_that_only_grows_gets_no_boundary_and_a_sentence(write_log, lines):
    train, _ = lines
    run = write_log([train(e, 4, weight_norm=10.0 + e) for e in range(1, 11)], name='short', config=CONV_ONLY)
    chart = weight_norm_chart(read_groups([run]))
    assert chart.panels[0].boundaries == []
    assert len(chart.panels[0].lines) == 1
    assert chart.notes[0] == (
        'short: no two parts: the norm grows, both lines of the fit rise; 11 -> 20, +81.8 % from epoch 1 to 10'
    )


def test_two_groups_have_boundaries_and_no_shade(falling, write_log, lines):
    train, _ = lines
    flat = write_log([train(e, 4, weight_norm=80.0) for e in range(1, 31)], name='alg1', config=CONV_ONLY)
    panel = weight_norm_chart(read_groups([falling, flat])).panels[0]
    assert [b.shaded for b in panel.boundaries] == [False]


def test_fig_1_right_keeps_the_order_of_the_command_line(write_log, lines):
    _, val = lines
    for name, values in {'wd': [50.0, 71.0], 'alg1': [60.0, 70.0]}.items():
        write_log([val(e, **{'accuracy/top1': v}) for e, v in enumerate(values, start=1)], name=name)
    root = write_log([val(1, **{'accuracy/top1': 1.0})], name='x').parent
    chart = accuracy_chart(read_groups([root / 'alg1', root / 'wd'], ['Algo 1', 'WD']))
    (panel,) = chart.panels
    assert (panel.x_title, panel.y_title) == ('epoch', 'top-1 accuracy (%)')
    assert [(line.name, line.y) for line in panel.lines] == [('Algo 1', [60.0, 70.0]), ('WD', [50.0, 71.0])]
    assert chart.notes[1] == 'WD: accuracy/top1 71 at epoch 2; highest 71 at epoch 2'


@pytest.fixture
def classifiers(write_log, lines):
    """Runs of Algorithm 1 and FixNorm."""
    train, val = lines
    for name, bound in (('alg1', {}), ('fixnorm', {'g_bound': 3.16})):
        log = []
        for e in (1, 2):
            log += [train(e, 4, g=e, mcbr=-0.3, **bound), val(e, g=e, mcbr=-0.1 * e, **bound)]
        root = write_log(log, name=name).parent
    return [root / 'alg1', root / 'fixnorm']


def test_fig_2_right_has_the_scale_above_the_risk(classifiers):
    chart = classifier_scale_chart(read_groups(classifiers, ['Algo 1', '@FixNorm-FC']))
    assert chart.arrangement == 'stacked'
    top, bottom = chart.panels
    assert (top.y_title, bottom.y_title) == ('‖W_FC‖ or g', 'MCBR')
    assert [line.name for line in top.lines] == ['Algo 1', '@FixNorm-FC', '@FixNorm-FC: bound of g']
    assert (top.lines[2].y, top.lines[2].dashed, top.lines[2].colour) == ([3.16, 3.16], True, 1)
    assert [list(line.y) for line in bottom.lines] == [[-0.1, -0.2]] * 2
    assert '@FixNorm-FC: ‖W_FC‖ or g 2, bound 3.16; MCBR (val) -0.2; at epoch 2' in chart.notes


def test_the_risk_of_training_batches_can_be_drawn_instead(classifiers):
    bottom = classifier_scale_chart(read_groups(classifiers), mode='train').panels[1]
    assert [list(line.y) for line in bottom.lines] == [[-0.3, -0.3]] * 2


def test_a_run_without_the_hook_is_told_which_one(write_log, lines):
    _, val = lines
    with pytest.raises(ConfigError, match='CrossBoundaryRiskHook in custom_hooks writes it'):
        classifier_scale_chart(read_groups([write_log([val(1, a=1.0)])]))


def test_fig_1_left_has_the_angle_per_step_of_the_runs_that_logged_it(falling, write_log, lines):
    train, _ = lines
    log = [train(e, 4, weight_norm=80.0, angle=0.01 * e) for e in range(1, 31)]
    log.insert(1, {'weight_norm/conv.weight': 80.0, 'angle/conv.weight': 0.5, 'step': 4})
    metered = write_log(log, name='metered', config=CONV_ONLY)
    chart = weight_norm_chart(read_groups([falling, metered]))
    norms, angles = chart.panels
    assert chart.arrangement == 'stacked'
    assert [line.name for line in norms.lines if not line.dashed] == ['wd', 'metered']
    (line,) = angles.lines
    assert (angles.y_title, line.name, line.colour) == ('angle per step (rad)', 'metered', 1)
    assert line.y == pytest.approx([0.01 * e for e in range(1, 31)])
    assert 'metered: angle per step 0.3 rad at epoch 30' in chart.notes
