"""A winner at the edge of what was searched is warned of, with the key to change; others are not."""

import math

import pytest

from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.base import FinishedTraining, Point, Spec
from mmfixnorm.search.planner import replay
from tests.search.planning import closed, play

ALGORITHM_4 = dict(type='FixNormSearch', lr_range=(0.2, 3.2))
UNIMODAL = dict(type='UnimodalFixNormSearch', lr_range=(0.2, 3.2))
GRID = dict(type='GridSearch', lrs=[0.1, 0.4, 1.6], alphas=[1.0, 4.0, 16.0])


def hill(lr=None, alpha=None):
    """A formula with its best there; None: the number makes no difference."""

    def value(spec):
        pairs = [(spec.point.lr, lr), (spec.point.alpha, alpha)]
        return 90 - sum(math.log(at / best) ** 2 for at, best in pairs if best is not None)

    return value


@pytest.mark.parametrize(
    ('block', 'value', 'expected'),
    [
        (ALGORITHM_4, hill(1.0, 4.0), []),
        (ALGORITHM_4, hill(0.01, 4.0), [('learning rate, 0.2, is the lowest', 'below; extend search.lr_range')]),
        (ALGORITHM_4, hill(9.0, 4.0), [('learning rate, 3.2, is the highest', 'above; extend search.lr_range')]),
        (ALGORITHM_4, hill(1.0, 0.1), [('alpha, 0.5, is the lowest', 'below; extend search.alphas')]),
        (ALGORITHM_4, hill(1.0, 99.0), [('alpha, 16, is the highest', 'above; extend search.alphas')]),
        (ALGORITHM_4, hill(1.0), []),  # of equal values the first alpha wins, which is no edge
        (UNIMODAL, hill(1.0, 4.0), []),
        (UNIMODAL, hill(0.01, 4.0), [('learning rate, 0.2, is the lowest', 'search.lr_range')]),
        (UNIMODAL, hill(1.0, 99.0), [('alpha, 16, is the highest', 'search.alphas')]),
        (GRID, hill(0.4, 4.0), []),
        (GRID, hill(0.1, 16.0), [('learning rate, 0.1', 'search.lrs'), ('alpha, 16', 'search.alphas')]),
        (dict(GRID, alphas=[4.0]), hill(0.4, 99.0), []),  # one value has no edge
    ],
)
def test_an_edge_is_warned_of_with_the_key_to_change(block, value, expected):
    settings = parse_settings(block)
    asked, *_ = play(settings, value)
    warnings = replay(settings, [closed(s, value(s)) for s in asked]).warnings
    assert len(warnings) == len(expected)
    for warning, words in zip(warnings, expected):
        assert all(word in warning for word in words), warning


def test_a_diverged_training_beyond_means_no_edge():
    settings = parse_settings(dict(GRID, alphas=[1.0]))
    asked, *_ = play(settings, lambda s: None if s.point.lr > 1 else s.point.lr)
    replayed = replay(settings, [closed(s, None if s.point.lr > 1 else s.point.lr) for s in asked])
    assert (replayed.best.point.lr, replayed.warnings) == (0.4, ())


@pytest.mark.parametrize(
    ('lr', 'decay', 'expected'),
    [(0.4, 1e-4, []), (3.1, 1e-4, ['learning rate, 3.1']), (0.4, 1.05e-5, ['weight decay, 1.05e-05'])],
)
def test_near_the_end_of_a_sampled_range_is_an_edge(lr, decay, expected):
    ranges = dict(lr_range=(0.05, 3.2), weight_decay_range=(1e-5, 1e-2))
    settings = parse_settings(dict(type='BayesianSearch', num_trials=2, **ranges))
    points = [Point(lr, weight_decay=decay), Point(0.3, weight_decay=2e-4)]
    specs = [Spec(f'bo-0{i}', f'batch {i}', point, 1.0) for i, point in enumerate(points)]
    finished = [FinishedTraining(s.key, s.point, 2.0 - i) for i, s in enumerate(specs)]
    warnings = replay(settings, [*specs, *finished]).warnings
    assert [any(words in w for w in warnings) for words in expected] == [True] * len(expected) == [True] * len(warnings)


def test_a_search_that_is_not_over_has_no_edge_yet():
    settings = parse_settings(GRID)
    asked, *_ = play(settings, hill(0.1, 4.0))
    assert replay(settings, [closed(s, hill(0.1, 4.0)(s)) for s in asked[:-1]]).warnings == ()


@pytest.mark.parametrize('block', [ALGORITHM_4, UNIMODAL, GRID, dict(GRID, confirm_seeds=2)])
def test_a_winner_among_equals_is_said_to_be_none(block):
    settings = parse_settings(block)
    asked, *_ = play(settings, lambda s: 0.0)
    replayed = replay(settings, [closed(s, 0.0) for s in asked])
    (warning,) = (warning for warning in replayed.warnings if 'is the lowest that was tried' not in warning)
    assert replayed.finished
    searched = [s for s in asked if s.seed is None]
    assert warning.startswith(f'all {len(searched)} trainings have the value 0, so nothing was chosen')
    value = hill(0.4, 4.0)
    asked, *_ = play(settings, value)
    replayed = replay(settings, [closed(s, value(s)) for s in asked])
    assert not any('nothing was chosen' in warning for warning in replayed.warnings)
