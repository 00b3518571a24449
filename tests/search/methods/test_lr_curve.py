"""The curve over the learning rate: against a naive sum over its hypotheses, and its symmetries."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from mmfixnorm.search._utils import lr_curve
from mmfixnorm.search._utils.lr_curve import LRCurve

CASES = {
    'one value': ([0.4], [60.0]),
    'three values': ([0.2, 0.4, 0.8], [52.0, 56.5, 58.0]),
    'over the cliff': ([0.2, 0.4, 0.8], [58.0, 60.0, 10.0]),
    'one diverged': ([0.2, 0.4, 3.2], [58.0, 60.0, None]),
    'a part of one': ([0.01, 0.02, 0.04], [0.57, 0.62, 0.68]),
}


def naive(lrs, values, middle, noise):
    """Each hypothesis by the likelihood of a normal vector whose height has a very wide prior."""
    best = max(v for v in values if v is not None)
    y = np.array([best - abs(best) if v is None else max(v, best - abs(best)) for v in values])
    wide = (1e2 * best) ** 2
    weights, heights, hypotheses = [], [], []
    for m, left, right in product(lr_curve._OCTAVES, lr_curve._LEFT, lr_curve._RIGHT):
        if right < left:
            continue
        drops = []
        for lr in lrs:
            off = math.log2(lr / middle) - m
            drops.append(min(best, best * (left if off < 0 else right) * off**2))
        drops = np.array(drops)
        variances = (noise * best * (1 + 3 * np.minimum(1, drops / (0.3 * best)))) ** 2
        height = np.average(y + drops, weights=1 / variances)
        log = stats.multivariate_normal(-drops, np.diag(variances) + wide).logpdf(y)
        log += stats.norm(0.0, 1.5).logpdf(m) + max(-4.0, -0.5 * ((height - max(y)) / (0.3 * best)) ** 2)
        weights.append(log)
        heights.append((height, 1 / np.sum(1 / variances)))
        hypotheses.append((m, left, right))
    weights = np.exp(np.array(weights) - max(weights))
    return weights / weights.sum(), heights, hypotheses


@pytest.mark.parametrize(('lrs', 'values'), CASES.values(), ids=CASES)
def test_the_curve_is_the_sum_over_its_hypotheses(lrs, values):
    curve = LRCurve(lrs, values, 0.3, 'greater', 0.02)
    weights, heights, hypotheses = naive(lrs, values, 0.3, 0.02)
    best = max(v for v in values if v is not None)
    for lr in (0.1, 0.3, 0.9):
        of_each = []
        for (height, _), (m, left, right) in zip(heights, hypotheses, strict=True):
            off = math.log2(lr / 0.3) - m
            of_each.append(height - min(best, best * (left if off < 0 else right) * off**2))
        of_each = np.array(of_each)
        mean = weights @ of_each
        assert curve.at(lr).mean == pytest.approx(mean, rel=1e-4, abs=1e-6 * best)
        variance = weights @ ((of_each - mean) ** 2 + [of_height for _, of_height in heights])
        assert curve.at(lr).sd == pytest.approx(math.sqrt(variance), rel=1e-2)
    above = weights[[m > math.log2(0.6 / 0.3) for m, *_ in hypotheses]].sum()
    assert curve.chance_beyond(0.6) == pytest.approx(above, abs=1e-4)


@pytest.mark.parametrize('factor', [0.01, 7.0])
def test_units_of_the_metric_and_of_the_learning_rate_do_not_matter(factor):
    lrs, values = CASES['three values']
    curve = LRCurve(lrs, values, 0.3, 'greater', 0.02)
    scaled = LRCurve([lr * factor for lr in lrs], [v * factor for v in values], 0.3 * factor, 'greater', 0.02)
    for lr in (0.1, 0.5, 2.0):
        assert scaled.at(lr * factor).mean == pytest.approx(curve.at(lr).mean * factor)
        assert scaled.gain(lr * factor, 0.4 * factor) == pytest.approx(curve.gain(lr, 0.4) * factor)
        assert scaled.chance_better(lr * factor, 0.4 * factor) == pytest.approx(curve.chance_better(lr, 0.4))


def test_where_less_is_better_the_curve_is_mirrored():
    lrs = [0.2, 0.4, 0.8]
    up = LRCurve(lrs, [-3.0, -2.5, -2.7], 0.3, 'greater', 0.02)
    down = LRCurve(lrs, [3.0, 2.5, 2.7], 0.3, 'less', 0.02)
    for lr in lrs:
        assert down.at(lr).mean == pytest.approx(-up.at(lr).mean)
        assert down.rank(lr) == pytest.approx(up.rank(lr))


def test_a_lucky_value_beside_worse_neighbours_is_shrunk_and_noise_decides_how_far():
    lrs, values = [0.2, 0.4, 0.8, 1.6], [57.0, 57.5, 61.0, 50.0]
    sure, unsure = (LRCurve(lrs, values, 0.5, 'greater', noise).at(0.8).mean for noise in (0.001, 0.05))
    assert unsure < sure <= 61.5
    assert unsure < 60.5


def test_a_cliff_on_the_right_keeps_the_promise_on_the_left():
    curve = LRCurve([0.4, 0.8], [60.0, 5.0], 0.5, 'greater', 0.02)
    assert curve.gain(0.3, 0.4) > curve.gain(0.7, 0.4)
    assert curve.chance_beyond(0.6) < 0.1


def test_what_is_trained_gains_nothing_over_itself():
    curve = LRCurve(*CASES['three values'], 0.3, 'greater', 0.02)
    assert curve.gain(0.4, 0.4) == 0
    assert curve.chance_better(0.4, 0.4) == 0


@pytest.mark.parametrize(('lrs', 'values'), [([0.1, 0.583], [47.7, 57.9]), ([0.1, 0.2], [49.2, 49.9])])
def test_where_values_still_rise_the_next_promise_is_above_not_between(lrs, values):
    low, high = lrs
    curve = LRCurve(lrs, values, high, 'greater', 0.02)
    assert curve.gain(2 * high, high) > curve.gain(math.sqrt(low * high), high)
