"""The unimodal search against the best of the whole grid, and its properties."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.unimodal import UnimodalFixNormSearch, grid
from mmfixnorm.search.planner import Done, Run, Stuck, plan, planned_stages, replay
from tests.search.planning import closed, play

DEFAULT = UnimodalFixNormSearch()


def hills(lr_star, alpha_star, *, short_lr_star=None, short_alpha_star=None):
    """Unimodal and separable; the short trainings have tops of their own, and are worse."""

    def value_of(spec):
        short = spec.fraction < 1
        lr = (short_lr_star or lr_star) if short else lr_star
        alpha = (short_alpha_star or alpha_star) if short else alpha_star
        off = 3 * math.log(spec.point.lr / lr) ** 2 + math.log(spec.point.alpha / alpha) ** 2
        return 90 - off - 5 * short

    return value_of


searches = st.builds(
    lambda low, ratio, factor, alphas, rule: UnimodalFixNormSearch(
        lr_range=(low, low * ratio), lr_factor=factor, alphas=tuple(alphas), rule=rule
    ),
    st.floats(1e-3, 1),
    st.floats(1.1, 500),
    st.floats(1.3, 5),
    st.lists(st.floats(0.1, 32), min_size=1, max_size=7, unique=True),
    st.sampled_from(['greater', 'less']),
)
values = st.one_of(st.none(), st.integers(0, 5).map(float))  # few values: ties are common


@settings(max_examples=150, deadline=None)
@given(searches, st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 40))
def test_without_noise_it_finds_the_best_of_the_whole_grid(search, place, further, alpha_star):
    low, high = search.lr_range
    lr_star = low * (high / low) ** place
    short_lr_star = lr_star * (high / lr_star) ** further  # never below that of the long trainings
    sign = 1 if search.rule == 'greater' else -1
    value_of = hills(lr_star, alpha_star, short_lr_star=short_lr_star)
    _, _, step = play(search, lambda s: sign * value_of(s))
    lr = min(grid(search), key=lambda lr: abs(math.log(lr / lr_star)))
    alpha = min(search.alphas, key=lambda a: abs(math.log(a / alpha_star)))
    assert math.isclose(abs(math.log(step.best.point.lr / lr_star)), abs(math.log(lr / lr_star)), abs_tol=1e-6)
    assert math.isclose(
        abs(math.log(step.best.point.alpha / alpha_star)), abs(math.log(alpha / alpha_star)), rel_tol=1e-6, abs_tol=1e-6
    )


def test_it_asks_for_these_trainings():
    asked, _, step = play(DEFAULT, hills(0.8, 8.0, short_lr_star=1.6, short_alpha_star=4.0))
    assert [(s.key, s.point.lr, s.point.alpha, s.fraction) for s in asked] == [
        ('short-k1-a2', 0.4, 2, 0.2),
        ('short-k2-a2', 0.8, 2, 0.2),
        ('short-k3-a2', 1.6, 2, 0.2),
        ('short-k4-a2', 3.2, 2, 0.2),  # 1.6 was the best and at the end
        ('short-k3-a1', 1.6, 1, 0.2),
        ('short-k3-a3', 1.6, 4, 0.2),
        ('short-k3-a4', 1.6, 8, 0.2),
        ('full-k2-a3', 0.8, 4, 1.0),
        ('full-k3-a3', 1.6, 4, 1.0),
        ('full-k2-a2', 0.8, 2, 1.0),  # short trainings found it the second-best
        ('full-k1-a3', 0.4, 4, 1.0),  # 0.8 was better than 1.6
    ]
    assert (step.best.point.lr, step.best.point.alpha) == (0.8, 4)
    assert sum(s.fraction for s in asked) == pytest.approx(7 * 0.2 + 4)


@pytest.mark.parametrize(
    ('lr_range', 'factor', 'expected'),
    [
        ((0.2, 3.2), 2.0, (0.2, 0.4, 0.8, 1.6, 3.2)),
        ((0.1, 10.0), 10.0, (0.1, 1.0, 10.0)),
        ((0.2, 0.25), 2.0, (0.2, 0.25)),
        ((0.005, 0.1), 2.0, tuple(0.005 * 20 ** (i / 4) for i in range(5))),
    ],
)
def test_the_grid_has_both_ends_and_about_this_factor(lr_range, factor, expected):
    lrs = grid(UnimodalFixNormSearch(lr_range=lr_range, lr_factor=factor))
    assert lrs == pytest.approx(expected, rel=1e-9)
    assert (lrs[0], lrs[-1]) == lr_range


def test_the_second_best_alpha_of_the_short_trainings_can_win():
    value_of = hills(0.8, 4.0, short_alpha_star=2.7)  # short trainings prefer 2 and then 4
    asked, _, step = play(DEFAULT, value_of)
    assert (step.best.point.lr, step.best.point.alpha) == (0.8, 4)
    assert {s.point.alpha for s in asked if s.fraction == 1} == {2, 4}


def test_the_best_pair_is_trained_if_it_was_not():
    # The second alpha is tried at 0.4; the best learning rate is 0.8.
    asked, _, _ = play(DEFAULT, hills(0.8, 4.0, short_alpha_star=2.7))
    assert [s.key for s in asked if s.fraction == 1] == ['full-k1-a2', 'full-k2-a2', 'full-k1-a3', 'full-k2-a3']


def test_a_shorter_training_never_wins():
    _, _, step = play(DEFAULT, lambda s: 1 - s.fraction - 0.01 * s.point.lr)
    assert step.best.key.startswith('full')


def test_above_what_diverges_the_walk_comes_down():
    asked, _, step = play(DEFAULT, lambda s: None if s.point.lr > 0.3 else 50.0)
    assert (step.best.point.lr, min(s.point.lr for s in asked)) == (0.2, 0.2)


def test_all_diverged_ends_the_search_with_the_reason():
    asked, _, step = play(DEFAULT, lambda s: None)
    assert isinstance(step, Stuck)
    assert 'all 4 trainings of short lr diverged (lr 0.2 to 1.6)' in step.reason
    assert len(asked) == 4
    _, _, step = play(DEFAULT, lambda s: None if s.fraction == 1 else 1.0)
    assert isinstance(step, Stuck)


def test_a_best_at_an_end_is_warned_of():
    for lr_star, words in ((0.01, 'learning rate, 0.2, is the lowest'), (50, 'learning rate, 3.2, is the highest')):
        value_of = hills(lr_star, 4.0)
        asked, values, _ = play(DEFAULT, value_of)
        warnings = replay(DEFAULT, [closed(s, v) for s, v in zip(asked, values)]).warnings
        assert any(words in w for w in warnings)


@settings(max_examples=100, deadline=None)
@given(searches, st.data())
def test_any_results_in_any_order_lead_to_one_end_within_the_outline(search, data):
    value_of = {}

    def remembered(spec):
        if spec.key not in value_of:
            value_of[spec.key] = data.draw(values)
        return value_of[spec.key]

    together, _, end = play(search, remembered)
    assert isinstance(end, (Done, Stuck))
    history, single = [], []
    while isinstance(step := plan(search, history), Run):
        assert plan(search, history[::-1]) == step
        spec = data.draw(st.sampled_from(step.specs))
        single.append(spec)
        history.append(closed(spec, remembered(spec)))
    assert step == end
    assert {s.key: s for s in single} == {s.key: s for s in together}
    assert len(single) == len(together)
    for name, number, fraction in planned_stages(search):
        of_stage = [s for s in together if s.stage == name]
        assert len(of_stage) <= number
        assert {s.fraction for s in of_stage} <= {fraction}


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        (dict(lr_factor=1.0), r'search\.lr_factor: must be a finite number > 1, got 1\.0'),
        (dict(lr_factor='2'), r'search\.lr_factor'),
        (dict(lr_range=(1.0, 0.5)), r'search\.lr_range'),
        (dict(schedule_fractions=(1.0,)), r'search\.schedule_fractions: must be a pair'),
        (dict(alphas=[1.0, 1.0]), r'search\.alphas'),
    ],
)
def test_a_bad_setting_is_refused_with_its_key(block, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(dict(type='UnimodalFixNormSearch', **block))
