"""The winner and the runner-up over new seeds: what is trained, who wins, what is told."""

import math

import pytest
import torch

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods.bayesian import BayesianSearch
from mmfixnorm.search.methods.confirm import confirmations, t_interval
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.methods.grid import GridSearch
from mmfixnorm.search.methods.halving import SuccessiveHalvingSearch
from mmfixnorm.search.methods.sampled import RandomSearch
from mmfixnorm.search.planner import Done, Run, plan, planned_stages, replay
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.state import ledger, search_state
from mmfixnorm.search.record.study import read_record
from tests.search.planning import RANGES, closed, play

GRID = GridSearch(lrs=(0.4, 0.8, 1.6), confirm_seeds=3)
METHODS = [
    GRID,
    FixNormSearch(confirm_seeds=2),
    BayesianSearch(sampler='tpe', num_trials=6, confirm_seeds=2, **RANGES),
    RandomSearch(num_trials=5, confirm_seeds=2, **RANGES),
    SuccessiveHalvingSearch(confirm_seeds=2, **RANGES),
]


def value_of(spec):
    """Best at lr 1.6 and alpha 3, better with length, and with each new seed."""
    off = abs(math.log(spec.point.lr / 1.6)) + 0.01 * abs(math.log((spec.point.alpha or 3) / 3))
    return spec.fraction + (spec.seed or 0) - off


def confirmed(search, value_of):
    """Play a search; return its confirmations and the last step."""
    asked, values, step = play(search, value_of)
    history = [closed(s, v) for s, v in zip(asked, values)]
    if isinstance(search, BayesianSearch):
        history += [s for s in asked if s.stage != 'confirmation']
    return confirmations(replay(search, history), [h for h in history if not hasattr(h, 'seed')]), step


@pytest.mark.parametrize('search', METHODS, ids=lambda s: s.kind)
def test_the_two_best_points_are_trained_again_at_full_length_with_new_seeds(search):
    asked, values, step = play(search, value_of)
    full = {s.point: v for s, v in zip(asked, values) if s.fraction == 1 and s.seed is None}
    two_best = sorted(full, key=full.get)[-2:]
    again = [s for s in asked if s.stage == 'confirmation']
    n = search.confirm_seeds
    assert {s.point for s in again} == set(two_best)
    assert [s.key for s in again] == [f'confirm-{letter}-{i}' for letter in 'ab' for i in range(1, n + 1)]
    assert [s.seed for s in again] == 2 * list(range(1, n + 1))
    assert {s.fraction for s in again} == {1.0}
    assert (step.best.point.lr, step.best.key.startswith('confirm')) == (two_best[1].lr, False)
    assert planned_stages(search)[-1] == ('confirmation', 2 * n, 1.0)


def test_the_better_mean_over_the_new_seeds_wins_and_keeps_its_training():
    new = {'confirm-a-1': 5.0, 'confirm-a-2': 1.0, 'confirm-a-3': 3.0}
    shown, step = confirmed(GRID, lambda s: value_of(s) if s.seed is None else new.get(s.key, 3.5))
    assert [(c.role, c.training.key, c.mean, c.chosen) for c in shown] == [
        ('winner', 'grid-02', 3.0, False),
        ('runner-up', 'grid-01', 3.5, True),
    ]
    assert (step.best.key, step.best.value) == ('grid-01', pytest.approx(1 - math.log(2)))
    assert shown[0].values == [5.0, 1.0, 3.0]
    assert shown[0].seeds == [1, 2, 3]


def test_equal_means_leave_the_winner_of_the_search():
    assert confirmed(GRID, lambda s: value_of(s) if s.seed is None else 7.0)[1].best.key == 'grid-02'


@pytest.mark.parametrize(
    ('diverged', 'winner'),
    [
        ({'confirm-a-1'}, 'grid-01'),
        ({'confirm-a-1', 'confirm-b-2'}, 'grid-02'),
        ({f'confirm-a-{i}' for i in (1, 2, 3)}, 'grid-01'),
    ],
)
def test_a_point_that_diverges_more_often_loses_and_it_is_shown(diverged, winner):
    def outcome(spec):
        return None if spec.key in diverged else value_of(spec) if spec.seed is None else 9.0 - (spec.point.lr < 1)

    shown, step = confirmed(GRID, outcome)
    assert step.best.key == winner
    assert sum(c.diverged for c in shown) == len(diverged)
    assert [c.mean for c in shown if c.diverged == 3] == [None] * (len(diverged) == 3)


def test_if_all_new_trainings_diverge_the_winner_stays_with_a_warning():
    asked, values, step = play(GRID, lambda s: None if s.seed else value_of(s))
    replayed = replay(GRID, [closed(s, v) for s, v in zip(asked, values)])
    assert step.best.key == 'grid-02'
    assert any('lr 1.6 is not confirmed' in w for w in replayed.warnings)


def test_without_a_second_point_the_winner_is_confirmed_alone():
    search = GridSearch(lrs=(0.4, 0.8), confirm_seeds=2)
    shown, step = confirmed(search, lambda s: None if s.point.lr == 0.4 else 1.0)
    assert [(c.role, c.values, c.interval) for c in shown] == [('winner', [1.0, 1.0], (1.0, 1.0))]
    assert isinstance(step, Done)


def test_a_winner_that_was_shorter_is_confirmed_at_full_length():
    search = FixNormSearch(confirm_seeds=1)
    asked, _, _ = play(search, lambda s: 1 - s.fraction - s.point.lr)
    assert next((s.key, s.point.lr, s.fraction) for s in asked if s.seed) == ('confirm-a-1', 0.8, 1.0)


def test_what_is_not_closed_yet_is_left_out_and_no_winner_is_told():
    asked, values, _ = play(GRID, value_of)
    history = [closed(s, v) for s, v in zip(asked, values) if s.key not in ('confirm-a-2', 'confirm-b-3')]
    shown = confirmations(replay(GRID, history), history)
    assert [c.seeds for c in shown] == [[1, 3], [1, 2]]
    assert not any(c.chosen for c in shown)
    step = plan(GRID, history)
    assert isinstance(step, Run)
    assert [s.key for s in step.specs] == ['confirm-a-2', 'confirm-b-3']


def test_the_interval_is_that_of_the_textbook():
    # Student's t for 4 degrees of freedom and 95 %: 2.776 (any table).
    values = [94.1, 95.3, 94.7, 96.0, 93.9]
    spread = torch.tensor(values, dtype=torch.float64).std().item()
    low, high = t_interval(values)
    assert (low + high) / 2 == pytest.approx(94.8)
    assert (high - low) / 2 == pytest.approx(2.776 * spread / math.sqrt(5), rel=1e-3)


def test_each_trial_gets_its_seed(write_config, tmp_path):
    problem = load_problem(write_config('confirm_seeds=2, seed=7'), work_dir=tmp_path / 'w')
    asked, _, _ = play(problem.settings, value_of)
    seeds = {s.key: problem.trial_config(s).randomness.seed for s in asked}
    assert {k: v for k, v in seeds.items() if k.startswith('confirm')} == {
        'confirm-a-1': 8,
        'confirm-a-2': 9,
        'confirm-b-1': 8,
        'confirm-b-2': 9,
    }
    assert {v for k, v in seeds.items() if not k.startswith('confirm')} == {7}


def test_bad_numbers_of_seeds_are_refused():
    with pytest.raises(ConfigError, match=r'search\.confirm_seeds: must be an integer >= 0, got -1'):
        GridSearch(lrs=(1.0,), confirm_seeds=-1)
    with pytest.raises(ConfigError, match=r'search\.seed: must be an integer where search\.confirm_seeds > 0'):
        GridSearch(lrs=(1.0,), confirm_seeds=1, seed=None)


def test_a_record_from_before_goes_on_and_other_seeds_are_another_search():
    assert 'confirm_seeds' not in FixNormSearch().identity()
    assert FixNormSearch(confirm_seeds=2).identity()['confirm_seeds'] == 2


def test_a_record_gives_the_seeds_back_and_counts_the_confirmation(make_search):
    search = make_search('lr_range=(0.2, 3.2), num_splits=2, alphas=[1.0, 4.0], confirm_seeds=2')
    assert search.run(workers=2).kind == 'done'
    record = read_record(search.work_dir)
    assert {a.spec.key: a.spec.seed for a in record.attempts if a.spec.seed} == {
        f'confirm-{letter}-{i}': i for letter in 'ab' for i in (1, 2)
    }
    assert all(a.spec.seed is None for a in record.attempts if a.spec.stage != 'confirmation')
    state = search_state(search.problem(), record)
    assert sum(r.cost for r in state.rows if r.stage == 'confirmation') == 4
    assert ledger(record.attempts)[-1] == pytest.approx(2 * 0.2 + 2 + 1 + 4) == state.planned_cost
    assert [c.values for c in confirmations(state.replayed, state.rows)] == [
        c.values for c in confirmations(state.replayed, record.finished())
    ]
    assert search.run().best == state.best  # nothing is left to do
