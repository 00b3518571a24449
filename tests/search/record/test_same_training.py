"""Trainings that are the same as others are not done again, and nothing else changes."""

import math
import multiprocessing
import os
import signal
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmfixnorm.core import FixNormLinear, WNLinear
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.same_training import KnownTrainings
from mmfixnorm.search.record.state import search_state, summary_line
from mmfixnorm.search.record.study import Attempt, read_record
from mmfixnorm.search.report import write_report
from mmfixnorm.search.trial.folder import TrialResult, read_progress
from mmfixnorm.search.trial.scales import LargestScale

HERE = Path(__file__).parents[1]
FORK = multiprocessing.get_context('fork')
# The scale of the fake trainings comes up to 3: of these alphas the last three are one training, and the first is it.
ALPHAS = 'alphas=[4.0, 0.5, 1.0, 2.0, 8.0, 16.0]'
ALGORITHM_4 = f'lr_range=(0.2, 3.2), {ALPHAS}'


@pytest.mark.parametrize('workers', [1, 2, 5])
def test_the_table_is_the_same_and_the_ledger_says_what_was_trained(make_search, workers):
    every, fewer = (make_search(ALGORITHM_4, name) for name in ('every', 'fewer'))
    every.run('bounded', search__reuse_trainings=False)
    fewer.run('bounded', workers)
    assert fewer.table() == every.table()
    assert len(every.trainings()) == 15
    assert sorted({*every.trainings()} - {*fewer.trainings()}) == ['alpha-4', 'alpha-5']
    state = search_state(fewer.problem(), fewer.record())
    assert (state.cost, state.saved_cost, state.planned_cost) == (9.0, 2.0, 11.0)
    assert '9 of 11 T_max, 2 saved' in summary_line(fewer.problem(), state)
    source = next(row.same_as for row in state.rows if row.key == 'alpha-5')
    assert {row.key: row.same_as for row in state.rows if row.same_as} == {'alpha-4': source, 'alpha-5': source}
    assert [row.spent for row in state.rows if row.same_as] == [0.0, 0.0]


@pytest.mark.parametrize('workers', [1, 2, 5])
def test_with_several_workers_nothing_is_trained_twice_either(make_search, workers):
    # The first alpha is bounded, so nothing is known of the others: 16 is trained, and is 8 and 4 as well.
    search, submitted = make_search('lr_range=(0.2, 3.2), alphas=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0]'), []
    search.run('bounded', workers, lambda e: submitted.append(e.data['key']) if e.kind == 'submitted' else None)
    rows = {row.key: row for row in search_state(search.problem(), search.record()).rows}
    same = {key: row.same_as for key, row in rows.items() if row.same_as}
    assert same == {'alpha-3': 'alpha-5', 'alpha-4': 'alpha-5'}
    assert submitted[10] == 'alpha-5'
    assert sorted(submitted[11:]) == ['alpha-1', 'alpha-2']


def test_it_is_told_as_it_happens_and_in_the_report(make_search):
    search, heard = make_search(ALGORITHM_4), []
    search.run('bounded', listener=heard.append)
    told = [event for event in heard if event.kind == 'recorded' and event.data['same_as']]
    assert [(event.data['key'], event.data['cost']) for event in told] == [('alpha-4', 0.0), ('alpha-5', 0.0)]
    assert told[0].text.endswith(f', the same training as {told[0].data["same_as"]}')
    page = write_report(search.problem(), search.record()).report.read_text()
    assert 'Cost so far 9 T_max of 11 planned; 2 saved' in page
    assert page.count('the same training as r1-k') >= 2


@pytest.mark.parametrize('number', [3, 9, 10, 11, 12, 14])
def test_a_driver_killed_at_any_time_leaves_the_same_table(make_search, number):
    every, killed = (make_search(ALGORITHM_4, name) for name in ('every', 'killed'))
    every.run('bounded', search__reuse_trainings=False)

    heard = []

    def die(event):
        if event.kind in ('recorded', 'submitted'):
            heard.append(event)
        if len(heard) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    first = FORK.Process(target=killed.run, args=('bounded',), kwargs={'listener': die})
    first.start()
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    killed.run('bounded')
    assert killed.table() == every.table()
    assert sorted(killed.trainings()) == sorted({*every.trainings()} - {'alpha-4', 'alpha-5'})


def test_a_record_of_earlier_trials_knows_no_scales_and_nothing_is_taken_over(make_search):
    search = make_search(ALGORITHM_4)
    search.run('plain')
    assert len(search.trainings()) == 15


def test_the_weights_of_a_winner_that_was_not_trained_again_are_kept(make_search):
    search = make_search("type='GridSearch', lrs=[1.0], alphas=[16.0, 4.0]")
    problem = search.problem()
    for key in ('grid-00', 'grid-01'):
        folder = problem.trial_dir(key) / 'run'
        folder.mkdir(parents=True)
        (folder / 'epoch_10.pth').touch()
    search.run('bounded')
    rows = search_state(problem, search.record()).rows
    assert [row.same_as for row in rows] == ['', 'grid-00']
    assert (problem.trial_dir('grid-00') / 'run/epoch_10.pth').exists()


POINT = Point(0.5, 4.0, 1e-4)
SPEC = Spec('a', 'grid', POINT, 1.0)


@pytest.mark.parametrize(
    ('trained', 'asked', 'is_same'),
    [
        ({}, {}, True),
        ({}, {'point': Point(0.5, 3.1, 1e-4)}, True),  # both above 3
        ({}, {'point': Point(0.5, 3.0, 1e-4)}, False),  # just met: from there g has no gradient
        ({}, {'point': Point(0.5, 1.0, 1e-4)}, False),
        ({'point': Point(0.5, 2.0, 1e-4)}, {'point': Point(0.5, 2.5, 1e-4)}, False),  # it was bounded itself
        ({}, {'point': Point(0.5, None, 1e-4)}, False),  # alpha as in the config
        ({'point': Point(0.5)}, {'point': Point(0.5)}, True),
        ({}, {'point': Point(0.6, 4.0, 1e-4)}, False),
        ({}, {'point': Point(0.5, 4.0, 2e-4)}, False),
        ({}, {'fraction': 0.2}, False),
        ({}, {'seed': 0}, True),  # search.seed
        ({}, {'seed': 1}, False),
        ({'seed': 1}, {'seed': 1}, True),
    ],
)
def test_what_is_the_same(make_search, trained, asked, is_same):
    attempt = attempt_at(replace(SPEC, **trained), largest_scale=3.0)
    known = KnownTrainings(make_search().problem(), [attempt])
    assert known.same_as(replace(SPEC, key='b', **asked)) is (attempt if is_same else None)


@pytest.mark.parametrize(
    ('finished', 'running', 'so_far', 'asked', 'may_become'),
    [
        ([], 4.0, None, 4.0, True),  # the same point
        ([], 4.0, None, 2.0, False),  # no training of this search has told a scale: none will
        ([(0.5, 0.6)], 16.0, None, 8.0, True),
        ([(0.5, 0.6)], 16.0, 3.0, 8.0, True),  # 3 is below both so far
        ([(0.5, 0.6)], 16.0, 3.0, 3.0, False),
        ([(0.5, 0.6)], 2.0, 2.5, 8.0, False),  # the running one is bounded
        ([(0.5, 0.6)], 16.0, 3.0, None, False),
        ([(4.0, 3.0)], 2.0, None, 1.0, False),  # both will be bounded, as 4 came up to 3
        ([(4.0, 5.0)], 16.0, None, 8.0, True),  # 4 was bounded itself, and says nothing of what is above it
    ],
)
def test_what_waits_for_a_training_that_runs(make_search, finished, running, so_far, asked, may_become):
    def at(alpha):
        return replace(SPEC, point=replace(POINT, alpha=alpha))

    known = KnownTrainings(
        make_search().problem(), [attempt_at(at(alpha), largest_scale=scale) for alpha, scale in finished]
    )
    assert known.may_become_same(at(asked), at(running), so_far) == may_become
    assert not known.may_become_same(replace(at(asked), fraction=0.2), at(running), so_far)


def test_of_trainings_that_differ_in_alpha_alone_the_largest_is_started_first(make_search):
    points = [Point(1.0, 2.0), Point(0.5, 1.0), Point(1.0, 8.0), Point(0.5), Point(0.5, 4.0), Point(1.0, 4.0)]
    specs = [Spec(f'grid-{i}', 'grid', point, 1.0) for i, point in enumerate(points)]
    known = KnownTrainings(make_search().problem(), [attempt_at(SPEC, largest_scale=1.0)])
    assert [int(spec.key[-1]) for spec in known.in_order(specs)] == [2, 5, 0, 4, 1, 3]
    assert KnownTrainings(make_search().problem(), []).in_order(specs) == specs


def attempt_at(spec, outcome='done', **result):
    value = 1.0 if outcome == 'done' else None
    return Attempt(spec, TrialResult(spec.key, 1, 'f', outcome, value, **result), 1.0, datetime.now())


@pytest.mark.parametrize(
    ('options', 'outcome', 'is_same'),
    [
        ({}, 'done', True),
        ({}, 'diverged', True),
        ({}, 'failed', False),
        ({}, 'cancelled', False),
        ({'search__reuse_trainings': False}, 'done', False),
        ({'search__seed': None}, 'done', False),  # another seed each time
        ({'search__seed': None, 'randomness__seed': 3}, 'done', True),
    ],
)
def test_when_it_may_be_taken_over(make_search, options, outcome, is_same):
    known = KnownTrainings(make_search().problem(**options), [attempt_at(SPEC, outcome)])
    assert (known.same_as(SPEC) is not None) == is_same


def test_the_largest_scale_is_that_of_a_loop_over_all_steps():
    torch.manual_seed(0)
    model = torch.nn.Sequential(FixNormLinear(4, 9, alpha=2.0), WNLinear(9, 9), FixNormLinear(9, 4, alpha=0.5))
    scales = LargestScale()
    scales.begin(model, 0.0)
    seen = [model[0].g.item() / 3, model[2].g.item() / 2]
    for _ in range(20):
        for layer in model:
            layer.g.data.normal_()
        scales.update()
        seen += [abs(model[0].g.item()) / 3, abs(model[2].g.item()) / 2]
    assert scales.largest() == pytest.approx(max(seen), rel=1e-6)
    scales.begin(model, 50.0)
    assert scales.largest() == 50.0
    model[2].g.data.fill_(math.nan)
    scales.update()
    assert scales.largest() is None


@pytest.mark.parametrize(
    ('model', 'before'),
    [(torch.nn.Linear(2, 2), 0.0), (WNLinear(2, 2), 0.0), (FixNormLinear(2, 2, alpha=1.0), math.nan)],
)
def test_without_a_bound_or_with_an_unknown_past_no_scale_is_known(model, before):
    scales = LargestScale()
    scales.begin(model, before)
    scales.update()
    assert scales.largest() is None


@pytest.mark.parametrize(
    ('owner', 'is_known'),
    [
        (torch.nn.Sequential(FixNormLinear(4, 2, alpha=1.0)), True),  # a head
        (torch.nn.Linear(2, 2), False),  # a loss with an alpha of its own, say
        (SimpleNamespace(alpha=1.0), True),  # the replaced layers of a FixNormModel, which are no module
    ],
)
def test_an_alpha_that_bounds_no_layer_can_act_in_another_way(owner, is_known):
    scales = LargestScale()
    scales.begin(FixNormLinear(4, 2, alpha=1.0), 0.0, [owner])
    assert (scales.largest() is not None) == is_known


@pytest.mark.slow
def test_a_real_search_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(HERE))  # for the processes of the trials

    def run(name, *, reuse, killed_once=''):
        options = {
            'model.head.type': 'ToyFixNormHead',
            'model.killed_once': killed_once and str(tmp_path / killed_once),
            'search': dict(
                _delete_=True,
                type='FixNormSearch',
                lr_range=(0.05, 0.4),
                num_splits=2,
                schedule_fractions=(0.5, 1.0),
                alphas=[6.0, 0.6, 12.0, 24.0],
                reuse_trainings=reuse,
                keep_weights='all',
                backoff_s=0,
            ),
        }
        problem = load_problem(HERE / 'toy_config.py', work_dir=tmp_path / name, cfg_options=options)
        assert run_search(problem).kind == 'done'
        record = read_record(problem.work_dir)
        return problem, record, {a.spec.key: (a.result.value, a.result.curve) for a in record.attempts}

    every, trained, values = run('every', reuse=False)
    _, resumed, again = run('resumed', reuse=True, killed_once='gone')
    assert again == values
    same = {a.spec.key: a.result.same_as for a in resumed.attempts if a.result.same_as}
    assert set(same) == {'alpha-2', 'alpha-3'}
    scales = {a.spec.key: a.result.largest_scale for a in trained.attempts}
    assert scales[same['alpha-2']] < 6.0
    assert {a.spec.key: a.result.largest_scale for a in resumed.attempts if a.result.outcome == 'done'} == scales
    progress = read_progress(every.trial_dir('r1-k0'), attempt=1)
    assert progress is not None
    assert 0 < progress.largest_scale <= scales['r1-k0']
    weights = [
        torch.load(every.trial_dir(key) / 'run/epoch_4.pth', weights_only=False)['state_dict']
        for key in ('alpha-2', same['alpha-2'], 'alpha-1')
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
