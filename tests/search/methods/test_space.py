"""Other numbers of the config that are sampled: their ranges, the draws, and winners at an edge."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.space import Range
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.base import FinishedTraining, Point, Spec, point_in, titles
from mmfixnorm.search.methods.bayesian import BayesianSearch
from mmfixnorm.search.methods.halving import SuccessiveHalvingSearch
from mmfixnorm.search.methods.sampled import RandomSearch, random_point
from mmfixnorm.search.planner import replay
from tests.search.planning import RANGES, play

DROPOUT, MOMENTUM, DEPTH = 'model.head.dropout', 'optim_wrapper.optimizer.momentum', 'model.depth'
SPACE = {MOMENTUM: (0.8, 0.99), DROPOUT: (0, 0.5), DEPTH: dict(low=1, high=4, integer=True)}

BAD = [
    ([DROPOUT], r"search\.space: must be a dict of dotted keys .*, got \['model\.head\.dropout'\]"),
    ({3: (0, 1)}, r'search\.space: must be a dict of dotted keys'),
    ({'dropout': (0, 1)}, r"search\.space\.dropout: must be a dotted key .* variable of the file .*, got 'dropout'"),
    ({'model': {'head': (0, 1)}}, r'search\.space\.model: must be a dotted key'),
    ({DROPOUT: 0.5}, r'search\.space\.model\.head\.dropout: must be a pair \(low, high\) .*, got 0\.5'),
    ({DROPOUT: '0,1'}, r'search\.space\.model\.head\.dropout: must be a pair'),
    ({DROPOUT: (0, 0.1, 0.5)}, r'search\.space\.model\.head\.dropout: must be a pair'),
    ({DROPOUT: (0.5, 0)}, r'search\.space\.model\.head\.dropout: .* low < high, .*got \(0\.5, 0\)'),
    ({DROPOUT: (0.5, 0.5)}, r'search\.space\.model\.head\.dropout: .* low < high'),
    ({DROPOUT: (0, math.nan)}, r'search\.space\.model\.head\.dropout: .* finite numbers .*got nan'),
    ({DROPOUT: (0, math.inf)}, r'search\.space\.model\.head\.dropout: .* finite numbers .*got inf'),
    ({DROPOUT: (False, True)}, r'search\.space\.model\.head\.dropout: must be a pair .*got False'),
    ({DROPOUT: ('0', 1)}, r"search\.space\.model\.head\.dropout: must be a pair .*got '0'"),
    ({DROPOUT: dict(low=0)}, r'search\.space\.model\.head\.dropout: must be a pair .*got None'),
    ({DROPOUT: dict(low=0, hihg=1)}, r"search\.space\.model\.head\.dropout: .* no 'hihg', did you mean 'high'"),
    ({DROPOUT: dict(low=0, high=1, log=True)}, r'dropout: must be above 0 at its low end with log=True, got'),
    ({DROPOUT: dict(low=-1, high=1, log=True)}, r'dropout: must be above 0 at its low end'),
    ({DROPOUT: dict(low=1, high=2, log='yes')}, r'dropout: must be a range whose log and integer are True or False'),
    ({DROPOUT: dict(low=0.5, high=2, integer=True)}, r'dropout: must be integers at both ends with integer=True'),
]


@pytest.mark.parametrize(('space', 'message'), BAD)
def test_a_bad_range_is_refused_with_its_key(space, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(dict(type='RandomSearch', space=space, **RANGES))


@pytest.mark.parametrize('kind', ['FixNormSearch', 'UnimodalFixNormSearch', 'GridSearch'])
def test_a_method_that_samples_nothing_has_no_space(kind):
    with pytest.raises(ConfigError, match=rf'search\.space: {kind} has no such key'):
        parse_settings(dict(type=kind, space={DROPOUT: (0, 1)}))


@pytest.mark.parametrize(
    ('given_as', 'value', 'integer'),
    [
        ((1, 8), 2, True),
        ((1, 8), 2.0, False),
        ((1.0, 8), 2, False),
        (dict(low=1, high=8, log=True), 2, True),
        (dict(low=1, high=8, integer=False), 2, False),
        (dict(low=1, high=8, integer=True), 2.0, True),
    ],
)
def test_a_range_is_of_integers_where_both_ends_and_the_config_are(given_as, value, integer):
    (of,) = RandomSearch(space={DEPTH: given_as}, **RANGES).space.values()
    of = of.beside(value)
    assert of.integer is integer
    assert type(of.at(0.3)) is (int if integer else float)
    assert RandomSearch(space={DEPTH: of}, **RANGES).space == {DEPTH: of}  # and is not decided again


def as_before(search, index):
    """The draw of versions without a space, from numpy's generator."""
    pairs = dict(lr=search.lr_range, alpha=search.alpha_range, weight_decay=search.weight_decay_range)
    pairs = {name: pair for name, pair in pairs.items() if pair}
    uniform = np.random.default_rng([search.sampler_seed, index]).random(len(pairs))
    drawn = [math.exp(math.log(low) + u * math.log(high / low)) for u, (low, high) in zip(uniform, pairs.values())]
    return {name: min(max(float(f'{v:.10g}'), pairs[name][0]), pairs[name][1]) for name, v in zip(pairs, drawn)}


pairs = st.tuples(st.floats(1e-6, 1), st.floats(1.5, 1e3)).map(lambda p: (p[0], p[0] * p[1]))


@settings(max_examples=200, deadline=None)
@given(pairs, pairs, st.sampled_from(['alpha', 'weight_decay']), st.integers(0, 2**32), st.integers(0, 200))
def test_without_a_space_the_draws_are_those_of_before_and_with_one_they_stay(lr, other, name, seed, index):
    ranges = {'lr_range': lr, f'{name}_range': other, 'sampler_seed': seed}
    expected = as_before(RandomSearch(**ranges), index)
    assert random_point(RandomSearch(**ranges), index) == Point(**expected)
    values = random_point(RandomSearch(space=SPACE, **ranges), index).values
    assert {name: value for name, value in values.items() if name in expected} == expected
    assert 0.8 <= values[MOMENTUM] <= 0.99
    assert 0 <= values[DROPOUT] <= 0.5
    assert values[DEPTH] in (1, 2, 3, 4)


def test_the_order_in_the_config_changes_no_point_and_another_seed_does():
    def drawn(space, seed=0):
        return play(RandomSearch(num_trials=5, space=space, sampler_seed=seed, **RANGES), lambda s: s.point.lr)[0]

    assert drawn(SPACE) == drawn(dict(reversed(SPACE.items())))
    assert drawn(SPACE) != drawn(SPACE, seed=1)


@pytest.mark.parametrize(
    ('of', 'expected'),
    [
        (Range(0.0, 0.5), lambda u: 0.5 * u),
        (Range(-1.0, 3.0), lambda u: 4 * u - 1),
        (Range(1e-4, 1e-1, log=True), lambda u: 10 ** (3 * u - 4)),
    ],
)
def test_a_value_is_at_its_place(of, expected):
    for u in np.linspace(0, 1, 23):
        assert of.at(u) == pytest.approx(expected(u), rel=1e-9, abs=1e-12)
        assert of.place(of.at(u)) == pytest.approx(u, abs=1e-9)


@pytest.mark.parametrize('log', [False, True])
def test_integers_are_drawn_as_often_as_their_part_of_the_scale(log):
    of, n = Range(1, 6, log, integer=True), 60_000
    drawn = Counter(of.at((i + 0.5) / n) for i in range(n))
    widths = [math.log((k + 0.5) / (k - 0.5)) if log else 1.0 for k in range(1, 7)]
    assert [drawn[k] / n for k in range(1, 7)] == pytest.approx([w / sum(widths) for w in widths], abs=1e-3)
    assert (of.at(0.0), of.at(math.nextafter(1.0, 0.0))) == (1, 6)


@pytest.mark.parametrize('sampler', ['gp', 'tpe'])
def test_bayesian_optimisation_proposes_in_the_space_and_finds_the_best_there(sampler):
    search = BayesianSearch(sampler=sampler, num_trials=10, num_startup_trials=4, space=SPACE, sampler_seed=3, **RANGES)
    asked, values, _ = play(search, lambda s: -abs(s.point.values[DEPTH] - 3) - abs(s.point.values[DROPOUT] - 0.1))
    numbers = [s.point.values for s in asked]
    assert all(list(v) == ['lr', 'weight_decay', DEPTH, DROPOUT, MOMENTUM] for v in numbers)
    assert all(type(v[DEPTH]) is int and 1 <= v[DEPTH] <= 4 for v in numbers)
    assert all(0 <= v[DROPOUT] <= 0.5 and 0.8 <= v[MOMENTUM] <= 0.99 for v in numbers)
    assert max(values[4:]) > max(values[:4])
    assert [s.point for s in asked[:4]] == [random_point(search, i) for i in range(4)]


def test_halving_promotes_points_with_their_whole_space():
    asked, _, step = play(SuccessiveHalvingSearch(num_trials=9, space=SPACE, **RANGES), lambda s: -s.point.lr)
    by_key = {s.key: s.point for s in asked}
    assert by_key[step.best.key] == by_key[f'rung0-{step.best.key[-2:]}']
    assert len(step.best.point.others) == 3


def test_a_point_keeps_its_space_in_plain_data_and_others_have_no_word_of_it():
    point = Point(0.5, weight_decay=1e-4, others=((DROPOUT, 0.1), (DEPTH, 2)))
    point = Point.of(point.values)
    spec = Spec('random-00', 'random', point, 1.0)
    assert spec.to_dict()['others'] == {DEPTH: 2, DROPOUT: 0.1}
    assert Spec.from_dict(spec.to_dict()) == spec
    assert hash(point) == hash(point_in(dict(lr=0.5, alpha=None, weight_decay=1e-4, others={DROPOUT: 0.1, DEPTH: 2})))
    assert str(point) == 'lr 0.5, weight decay 0.0001, depth 2, dropout 0.1'
    assert list(Spec('a', 'a', Point(0.5), 1.0).to_dict()) == [
        'key', 'stage', 'lr', 'alpha', 'weight_decay', 'fraction', 'seed'
    ]  # fmt: skip


def test_the_identity_of_a_search_without_a_space_has_no_word_of_it():
    assert 'space' not in RandomSearch(**RANGES).identity()
    assert RandomSearch(space={DROPOUT: (0, 0.5)}, **RANGES).identity()['space'] == {
        DROPOUT: dict(low=0.0, high=0.5, log=False, integer=False)
    }


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['lr', 'weight_decay'], ['lr', 'weight decay']),
        (['lr', 'model.drop_rate'], ['lr', 'drop_rate']),
        (['lr', 'optim_wrapper.critic.lr'], ['lr', 'critic.lr']),
        (['a.x.p', 'b.x.p', 'b.y.p'], ['a.x.p', 'b.x.p', 'y.p']),
        (['o.betas.0', 'o.betas.1'], ['betas.0', 'betas.1']),
        (['a.b', 'c.a.b'], ['a.b', 'c.a.b']),
    ],
)
def test_a_column_is_named_by_as_many_parts_of_its_key_as_needed(names, expected):
    assert titles(names) == expected


@pytest.mark.parametrize(
    ('dropout', 'momentum', 'expected'),
    [
        (0.2, 0.9, []),
        (0.499, 0.9, [f'{DROPOUT}, 0.499, is the highest', f'above; extend search.space.{DROPOUT}, and']),
        (0.001, 0.9, []),  # below 0 is nothing
        (0.2, 0.8001, [f'{MOMENTUM}, 0.8001, is the lowest', f'below; extend search.space.{MOMENTUM}, and']),
    ],
)
def test_a_winner_at_the_edge_of_the_space_is_warned_of(dropout, momentum, expected):
    space = {DROPOUT: (0, 0.5), MOMENTUM: (0.8, 0.99)}
    search = BayesianSearch(num_trials=2, space=space, lr_range=(0.05, 3.2), weight_decay_range=(1e-5, 1e-2))
    points = [
        Point(0.4, weight_decay=1e-4, others=((DROPOUT, dropout), (MOMENTUM, momentum))),
        Point(0.3, weight_decay=2e-4, others=((DROPOUT, 0.3), (MOMENTUM, 0.95))),
    ]
    specs = [Spec(f'bo-0{i}', f'batch {i}', point, 1.0) for i, point in enumerate(points)]
    finished = [FinishedTraining(s.key, s.point, 2.0 - i) for i, s in enumerate(specs)]
    warnings = replay(search, [*specs, *finished]).warnings
    assert len(warnings) == bool(expected)
    assert all(words in warnings[0] for words in expected)
