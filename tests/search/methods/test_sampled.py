"""Random search against numpy's generator called by hand."""

import math

import numpy as np
import pytest

from mmfixnorm.search.methods.sampled import RandomSearch
from mmfixnorm.search.planner import Done, Run, Stuck, plan, planned_stages
from tests.search.planning import RANGES, hill, play


@pytest.mark.parametrize(('name', 'pair'), [('weight_decay', (1e-5, 5e-4)), ('alpha', (0.5, 16.0))])
def test_the_points_are_those_of_numpy_s_generator(name, pair):
    asked, _, _ = play(
        RandomSearch(lr_range=(0.2, 3.2), num_trials=12, sampler_seed=3, **{f'{name}_range': pair}),
        lambda s: s.point.lr,
    )
    assert [s.key for s in asked] == [f'random-{i:02d}' for i in range(12)]
    for i, spec in enumerate(asked):
        u, v = np.random.default_rng([3, i]).random(2)
        assert math.isclose(spec.point.lr, 0.2 * (3.2 / 0.2) ** u, rel_tol=1e-9)
        assert math.isclose(getattr(spec.point, name), pair[0] * (pair[1] / pair[0]) ** v, rel_tol=1e-9)
    assert {s.point.alpha is None for s in asked} == {name != 'alpha'}
    assert {s.point.weight_decay is None for s in asked} == {name == 'alpha'}


def test_fewer_points_are_the_beginning_of_more_and_another_seed_gives_others():
    few, many, others = (
        [(s.point.lr, s.point.weight_decay) for s in play(RandomSearch(num_trials=n, sampler_seed=seed, **RANGES))[0]]
        for n, seed in ((5, 0), (40, 0), (40, 1))
    )
    assert many[:5] == few
    assert not set(many) & set(others)


def test_the_points_are_even_on_the_log_scale():
    asked, _, _ = play(RandomSearch(num_trials=400, **RANGES))
    for name, (low, high) in (('lr', (0.2, 3.2)), ('weight_decay', (1e-5, 5e-4))):
        u = np.sort([math.log(getattr(s.point, name) / low) / math.log(high / low) for s in asked])
        assert u[0] >= 0
        assert u[-1] <= 1
        # Kolmogorov-Smirnov at 1 %: 1.63 / sqrt(n)
        assert np.abs(u - (np.arange(400) + 0.5) / 400).max() < 1.63 / 20


def test_the_winner_is_the_best_of_all_and_the_cost_is_that_of_all():
    settings = RandomSearch(num_trials=9, schedule_fraction=0.5, **RANGES)
    asked, values, step = play(settings)
    assert isinstance(step, Done)
    assert step.best.value == max(values)
    assert step.best.key == max(asked, key=hill).key
    assert sum(s.fraction for s in asked) == sum(n * f for _, n, f in planned_stages(settings)) == 4.5


def test_all_points_can_run_at_once():
    assert isinstance(step := plan(RandomSearch(num_trials=9, **RANGES), []), Run)
    assert len(step.specs) == 9


def test_all_diverged_is_told():
    assert isinstance(play(RandomSearch(num_trials=3, **RANGES), lambda s: None)[2], Stuck)


@pytest.mark.parametrize('workers', [1, 3])
def test_a_search_with_trials_over_lr_and_alpha(make_search, workers):
    search = make_search("type='RandomSearch', num_trials=6, alpha_range=(0.5, 16)", f'w{workers}')
    outcome = search.run('diverge-high', workers)
    assert outcome.kind == 'done'
    assert len(search.trainings()) == 6
    assert [row[0] for row in search.table()] == [f'random-{i:02d}' for i in range(6)]
    assert outcome.best.value == max(row[-1] for row in search.table() if row[2] == 'done')
