"""``lr_range='auto'``: one ramp first, then the same search as with the range that it measured."""

from dataclasses import replace

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import METHODS, parse_settings
from mmfixnorm.search.methods.base import FinishedTraining, Point, StageKind
from mmfixnorm.search.planner import Done, Run, Stuck, plan, planned_stages, replay
from mmfixnorm.search.record.state import search_state, stage_costs
from mmfixnorm.search.settings import ANGLE_RANGE
from tests.search.planning import closed, hill, play

RANGE = (0.2, 3.2)
BLOCKS = {
    'FixNormSearch': dict(),
    'UnimodalFixNormSearch': dict(),
    'LRFitSearch': dict(),
    'GridSearch': dict(num_splits=3),
    'RandomSearch': dict(num_trials=4, weight_decay_range=(1e-5, 5e-4)),
    'BayesianSearch': dict(num_trials=6, sampler='tpe', weight_decay_range=(1e-5, 5e-4)),
    'SuccessiveHalvingSearch': dict(num_trials=9, schedule_fractions=(0.3, 1.0), alpha_range=(0.5, 16)),
}


def settings(kind, **values):
    return parse_settings(dict(type=kind, **BLOCKS[kind], **values))


def ramp(lr_range=RANGE):
    return FinishedTraining('ramp', Point(0.4), None, lr_range)


def value_of(spec):
    point = replace(spec.point, weight_decay=spec.point.weight_decay or 8e-5)
    return hill(replace(spec, point=point)) + spec.fraction - 0.01 * (spec.point.alpha or 1)


def test_every_method_with_a_range_has_a_case() -> None:
    assert {kind for kind, method in METHODS.items() if 'lr_range' in method.settings.__dataclass_fields__} == {*BLOCKS}


@pytest.mark.parametrize('kind', BLOCKS)
def test_after_the_ramp_a_search_is_the_one_with_its_range(kind):
    auto, known = settings(kind, lr_range='auto', own_lr=0.4), settings(kind, lr_range=RANGE, own_lr=0.4)
    step = plan(auto, [])
    assert [(s.key, s.stage, s.point, s.is_ramp) for s in step.specs] == [('ramp', 'lr range', Point(0.4), True)]
    asked, values, end = play(auto, lambda s: value_of(s), first=[ramp()])
    expected = play(known, value_of)
    assert isinstance(end, Done)
    assert (asked, values, end) == expected


@pytest.mark.parametrize('kind', BLOCKS)
def test_the_plan_names_the_ramp_and_the_stages_of_a_range_as_wide_as_a_ramps(kind):
    first, *rest = planned_stages(settings(kind, lr_range='auto', own_lr=0.4))
    assert (first.name, first.trainings) == ('lr range', 1)
    assert rest == planned_stages(settings(kind, lr_range=(0.5, 4.0)))


def test_while_the_ramp_runs_nothing_else_starts():
    auto = settings('FixNormSearch', lr_range='auto', own_lr=0.4)
    assert plan(auto, [], running=['ramp']).keys == ('ramp',)


def test_a_ramp_without_an_end_leaves_the_search_without_a_range():
    step = plan(settings('FixNormSearch', lr_range='auto', own_lr=0.4), [ramp(None)])
    assert isinstance(step, Stuck)
    assert 'search.lr_range=(lr_min, lr_max)' in step.reason


def test_the_ramp_is_no_edge_and_no_rival():
    auto = settings('FixNormSearch', lr_range='auto', own_lr=100.0)
    history = [FinishedTraining('ramp', Point(100.0), None, RANGE)]
    asked, values, _ = play(auto, value_of, first=history)
    followed = replay(auto, [*history, *map(closed, asked, values)])
    known = settings('FixNormSearch', lr_range=RANGE)
    assert followed.warnings == replay(known, [*map(closed, asked, values)]).warnings
    assert followed.stages[0].kind is StageKind.RAMP
    assert followed.stages[0].best is None


@pytest.mark.parametrize('value', ['Auto', '', 'measured'])
def test_another_word_is_refused_with_the_key(value):
    with pytest.raises(ConfigError, match=r"search\.lr_range: must be a pair .*, or 'auto', got"):
        settings('FixNormSearch', lr_range=value)


def test_without_the_learning_rate_of_the_config_there_is_no_plan():
    with pytest.raises(ValueError, match='needs the learning rate of the config'):
        plan(settings('FixNormSearch', lr_range='auto'), [])


def test_the_identity_of_a_search_with_a_range_is_as_before():
    assert 'own_lr' not in settings('FixNormSearch').identity()


def test_a_config_fills_in_its_learning_rate(make_search):
    problem = make_search("lr_range='auto'").problem()
    assert (problem.settings.lr_range, problem.settings.own_lr) == ('auto', 0.1)


def test_an_angle_has_a_range_that_needs_no_ramp(write_config):
    from mmfixnorm.search.problem import load_problem

    file = write_config("lr_range='auto'", extra="optim_wrapper['update'] = 'angle'\n")
    found = load_problem(file).settings
    assert found.lr_range == ANGLE_RANGE
    assert plan(found, []).specs[0].key == 'r0-k0'


@pytest.mark.parametrize('lr', [0.0, -1.0])
def test_a_learning_rate_that_nothing_can_start_from_is_refused(write_config, lr):
    from mmfixnorm.search.problem import load_problem

    file = write_config("lr_range='auto'", extra=f"optim_wrapper['optimizer']['lr'] = {lr}\n")
    with pytest.raises(ConfigError, match=r'optim_wrapper\.optimizer\.lr: must be > 0'):
        load_problem(file)


def test_another_learning_rate_than_the_configs_as_its_own_is_refused(make_search):
    assert make_search("lr_range='auto', own_lr=0.1").problem().settings.own_lr == 0.1
    with pytest.raises(ConfigError, match=r'search\.own_lr: is optim_wrapper\S+ of the config, 0\.1, got 0\.3'):
        make_search("lr_range='auto', own_lr=0.3").problem()


def test_a_whole_search_records_the_ramp_once_and_counts_its_iterations(make_search, tmp_path):
    search, events = make_search("lr_range='auto'"), []
    outcome = search.run(listener=events.append)
    assert outcome.kind == 'done'
    state = search_state(search.problem(), search.record())
    assert (state.rows[0].key, state.rows[0].outcome, state.rows[0].cost) == ('ramp', 'measured', 0.04)
    assert state.cost == pytest.approx(11.04)
    assert stage_costs(search.problem(), search.record().attempts)[0].cost == 0.04
    assert any(e.kind == 'closed' and e.text == 'lr range closed, 0.2 to 3.2' for e in events)
    rows = search.table()
    assert search.run().kind == 'done'
    assert search.table() == rows
    plain = make_search('lr_range=(0.2, 3.2)', name='plain')
    plain.run()
    assert plain.table() == rows[1:]


def test_a_ramp_without_an_end_ends_the_command_without_a_winner(make_search):
    outcome = make_search("lr_range='auto'").run('endless')
    assert (outcome.kind, outcome.best) == ('stuck', None)
    assert 'lr_range' in outcome.message


def test_a_ramp_is_never_the_training_of_a_point(make_search):
    search = make_search("type='GridSearch', num_splits=2, lr_range='auto'")
    search.run()
    assert [r.same_as for r in search_state(search.problem(), search.record()).rows] == ['', '', '']


def test_run_is_a_step_of_one_ramp_only():
    step = plan(settings('GridSearch', lr_range='auto', own_lr=0.4), [])
    assert isinstance(step, Run)
    assert len(step.specs) == 1
