"""The planner against the published values, and its properties."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfixnorm.search.methods.base import FinishedTraining, Point
from mmfixnorm.search.methods.fixnorm import FixNormSearch, split
from mmfixnorm.search.methods.grid import GridSearch
from mmfixnorm.search.planner import Done, Run, Stuck, Wait, plan, planned_stages, replay

PAPER = FixNormSearch()


def closed(spec, value):
    return FinishedTraining(spec.key, spec.point, value)


def play(search, value_of):
    """Run a search on a formula; return all steps' specs and the last step."""
    history, asked = [], []
    while True:
        step = plan(search, history)
        if not isinstance(step, Run):
            return asked, step
        asked += step.specs
        history += [closed(s, value_of(s)) for s in step.specs]


def near(lr_star, alpha_star=4.0):
    """Unimodal in lr and alpha, with these maxima."""
    return lambda s: -abs(s.point.lr - lr_star) - 0.01 * abs(math.log(s.point.alpha / alpha_star))


SPLITS = [  # low, high, drop_low, what the paper's values need
    (0.2, 3.2, True, (0.8, 1.4, 2.0, 2.6, 3.2)),
    (0.2, 2.6, False, (0.2, 0.8, 1.4, 2.0, 2.6)),
    (0.2, 0.8, False, (0.2, 0.35, 0.5, 0.65, 0.8)),
    (0.2, 2.0, False, (0.2, 0.65, 1.1, 1.55, 2.0)),
    (0.005, 0.1, True, (0.024, 0.043, 0.062, 0.081, 0.1)),
    (0.005, 0.043, False, (0.005, 0.0145, 0.024, 0.0335, 0.043)),
]


@pytest.mark.parametrize(('low', 'high', 'drop_low', 'expected'), SPLITS)
def test_the_split_gives_the_published_values_exactly(low, high, drop_low, expected):
    assert split(low, high, 5, drop_low=drop_low) == expected


def test_the_split_keeps_the_users_ends_bit_for_bit():
    low, high = 0.123456789012345, 1 / 3
    lrs = split(low, high, 3, drop_low=False)
    assert (lrs[0], lrs[-1]) == (low, high)


@pytest.mark.parametrize(
    ('lr_range', 'winners', 'lr_star'),
    [  # winner of round 0 -> winner of round 1, as published (spec, section 4)
        ((0.2, 3.2), 2.6, 1.4),
        ((0.2, 3.2), 2.0, 1.1),
        ((0.2, 3.2), 0.8, 0.8),
        ((0.2, 3.2), 0.8, 0.65),
        ((0.2, 3.2), 0.8, 0.5),
        ((0.2, 3.2), 0.8, 0.35),
        ((0.005, 0.1), 0.043, 0.0335),
        ((0.005, 0.1), 0.043, 0.043),
        ((0.005, 0.1), 0.043, 0.0145),
    ],
)
def test_every_published_learning_rate_is_reached(lr_range, winners, lr_star):
    def value_of(spec):
        best = winners if spec.stage == 'round 0' else lr_star
        return 10.0 * (spec.fraction == 1) - abs(spec.point.lr - best)

    _, step = play(FixNormSearch(lr_range=lr_range, alphas=(0.5,)), value_of)
    assert step.best.point.lr == lr_star


def test_algorithm_4_asks_for_these_trainings_in_this_order():
    asked, step = play(PAPER, near(1.5, alpha_star=4.0))
    assert [(s.key, s.point.lr, s.point.alpha, s.fraction) for s in asked] == [
        ('r0-k0', 0.8, 0.5, 0.2),
        ('r0-k1', 1.4, 0.5, 0.2),
        ('r0-k2', 2.0, 0.5, 0.2),
        ('r0-k3', 2.6, 0.5, 0.2),
        ('r0-k4', 3.2, 0.5, 0.2),
        ('r1-k0', 0.2, 0.5, 1.0),
        ('r1-k1', 0.5, 0.5, 1.0),
        ('r1-k2', 0.8, 0.5, 1.0),
        ('r1-k3', 1.1, 0.5, 1.0),
        ('r1-k4', 1.4, 0.5, 1.0),
        ('alpha-1', 1.4, 1.0, 1.0),
        ('alpha-2', 1.4, 2.0, 1.0),
        ('alpha-3', 1.4, 4.0, 1.0),
        ('alpha-4', 1.4, 8.0, 1.0),
        ('alpha-5', 1.4, 16.0, 1.0),
    ]
    assert (step.best.point.lr, step.best.point.alpha) == (1.4, 4.0)


def test_the_defaults_cost_11_t_max():
    assert sum(n * fraction for _, n, fraction in planned_stages(PAPER)) == 5 * 0.2 + 5 + 5


def test_a_better_shorter_training_keeps_its_learning_rate():
    def value_of(spec):
        return {'round 0': 80.0 - spec.point.lr, 'round 1': 70.0 + spec.point.lr}.get(spec.stage, 60.0)

    asked, step = play(PAPER, value_of)
    assert step.best.key == 'r0-k0'
    assert {s.point.lr for s in asked if s.stage == 'alpha'} == {0.8}


def test_round_1_is_bounded_by_the_winner_of_round_0_even_where_it_is_worse():
    asked, _ = play(PAPER, lambda s: -abs(s.point.lr - 0.8) - (s.stage != 'round 0'))
    assert max(s.point.lr for s in asked if s.stage == 'round 1') == 0.8


@pytest.mark.parametrize('rule', ['greater', 'less'])
def test_equal_values_go_to_the_lower_learning_rate_and_the_first_alpha(rule):
    _, step = play(FixNormSearch(rule=rule), lambda s: 50.0)
    assert step.best.key == 'r0-k0'


def test_an_equal_value_does_not_replace_the_best_so_far():
    search = FixNormSearch(alphas=(1.0, 2.0))
    _, step = play(search, lambda s: 60.0 - s.point.lr if s.stage != 'alpha' else 59.8)
    assert step.best.point.alpha == 1.0  # r1-k0 has lr 0.2, so 59.8 as well


def test_rule_less_minimises():
    _, step = play(FixNormSearch(rule='less'), lambda s: -near(1.4)(s))
    assert (step.best.point.lr, step.best.point.alpha) == (1.4, 4.0)


def test_a_diverged_training_ranks_below_everything():
    _, step = play(PAPER, lambda s: None if s.point.lr > 1 else -1e9 + s.point.lr)
    assert step.best.point.lr == 0.8


def test_a_round_in_which_all_diverged_ends_the_search():
    asked, step = play(PAPER, lambda s: None)
    assert isinstance(step, Stuck)
    assert len(asked) == 5
    assert 'all 5 trainings of round 0 diverged (lr 0.8 to 3.2)' in step.reason


def test_alphas_that_all_diverge_leave_the_first_alpha():
    _, step = play(PAPER, lambda s: None if s.stage == 'alpha' else s.point.lr)
    assert step.best.point.alpha == 0.5


def test_a_best_at_the_upper_bound_of_round_0_is_warned_of():
    asked, _ = play(PAPER, lambda s: s.point.lr)
    history = [closed(s, s.point.lr) for s in asked]
    assert 'upper bound of search.lr_range' in replay(PAPER, history[:5]).warnings[0]
    (warning,) = replay(PAPER, history).warnings
    assert 'the best learning rate, 3.2, is the highest that was tried' in warning
    asked, _ = play(PAPER, near(1.4))
    assert replay(PAPER, [closed(s, near(1.4)(s)) for s in asked]).warnings == ()


def test_a_bound_that_falls_onto_lr_min_leaves_one_training():
    search = FixNormSearch(num_rounds=3, schedule_fractions=(0.2, 0.5, 1.0), alphas=(1.0,))
    asked, _ = play(search, lambda s: -s.point.lr)
    assert [s.point.lr for s in asked if s.stage == 'round 2'] == [0.2]


def test_what_runs_is_waited_for():
    specs = plan(PAPER, []).specs
    some = {s.key for s in specs[:2]}
    assert plan(PAPER, [], some).specs == specs[2:]
    assert plan(PAPER, [], {s.key for s in specs}) == Wait(tuple(s.key for s in specs))


def test_a_history_of_other_settings_is_refused():
    specs = plan(PAPER, []).specs
    with pytest.raises(ValueError, match=r'r0-k0 with lr 0\.8.*asks for lr 1\.5'):
        plan(FixNormSearch(lr_range=(0.9, 3.9)), [closed(specs[0], 1.0)])
    with pytest.raises(ValueError, match='no plan asked for'):
        plan(PAPER, [FinishedTraining('r7-k0', Point(1.0, 1.0), 1.0)])
    with pytest.raises(ValueError, match='twice'):
        plan(PAPER, [closed(specs[0], 1.0), closed(specs[0], 1.0)])


def test_a_grid_is_all_pairs_at_full_length():
    asked, step = play(GridSearch(lrs=(0.4, 1.0), alphas=(1.0, 2.0)), lambda s: s.point.lr + s.point.alpha)
    assert [(s.key, s.point.lr, s.point.alpha, s.fraction) for s in asked] == [
        ('grid-00', 0.4, 1.0, 1.0),
        ('grid-01', 0.4, 2.0, 1.0),
        ('grid-02', 1.0, 1.0, 1.0),
        ('grid-03', 1.0, 2.0, 1.0),
    ]
    assert step.best.key == 'grid-03'


def test_a_grid_over_a_range_has_both_ends():
    asked, _ = play(GridSearch(lr_range=(0.4, 2.8)), lambda s: s.point.lr)
    assert [s.point.lr for s in asked] == [0.4, 1.0, 1.6, 2.2, 2.8]  # Fig 4 of the paper
    assert {s.point.alpha for s in asked} == {None}


@pytest.mark.parametrize(('grid', 'key'), [(dict(lrs=(1.0, 2.0)), 'lrs'), (dict(lr_range=(1.0, 2.0)), 'lr_range')])
def test_a_grid_that_all_diverged_ends_the_search_and_names_the_key_that_it_has(grid, key):
    _, step = play(GridSearch(**grid), lambda s: None)
    assert isinstance(step, Stuck)
    assert f': lower search.{key}, or look' in step.reason


searches = st.builds(
    lambda low, width, k, fractions, alphas, rule: FixNormSearch(
        lr_range=(low, low + width),
        num_splits=k,
        num_rounds=len(fractions),
        schedule_fractions=tuple(sorted(fractions)),
        alphas=tuple(alphas),
        rule=rule,
    ),
    st.floats(1e-3, 1),
    st.floats(0.1, 5),
    st.integers(2, 7),
    st.lists(st.floats(0.05, 1), min_size=1, max_size=4),
    st.lists(st.floats(0.1, 32), min_size=1, max_size=5, unique=True),
    st.sampled_from(['greater', 'less']),
)
values = st.one_of(st.none(), st.integers(0, 5).map(float))  # few values: ties are common


@settings(max_examples=150, deadline=None)
@given(searches, st.data())
def test_any_search_ends_never_repeats_a_key_and_costs_what_was_planned(search, data):
    asked, step = play(search, lambda s: data.draw(values))
    assert isinstance(step, (Done, Stuck))
    assert len({s.key for s in asked}) == len(asked)
    planned = sum(n * fraction for _, n, fraction in planned_stages(search))
    assert sum(s.fraction for s in asked) <= planned + 1e-9
    assert all(search.lr_range[0] <= s.point.lr <= search.lr_range[1] for s in asked)


@settings(max_examples=100, deadline=None)
@given(searches, st.data())
def test_the_order_of_the_history_is_irrelevant(search, data):
    history = []
    while isinstance(step := plan(search, history), Run):
        history += [closed(s, data.draw(values)) for s in step.specs]
        shuffled = data.draw(st.permutations(history))
        assert plan(search, shuffled) == plan(search, history)


@settings(max_examples=100, deadline=None)
@given(searches, st.data())
def test_one_result_at_a_time_leads_to_the_same_trainings(search, data):
    value_of = {}

    def remembered(spec):
        if spec.key not in value_of:
            value_of[spec.key] = data.draw(values)
        return value_of[spec.key]

    together, end = play(search, remembered)
    history, single = [], []
    while isinstance(step := plan(search, history), Run):
        spec = data.draw(st.sampled_from(step.specs))
        single.append(spec)
        history.append(closed(spec, remembered(spec)))
    assert step == end
    assert {s.key: s for s in single} == {s.key: s for s in together}
