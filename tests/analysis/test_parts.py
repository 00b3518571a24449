"""The boundary between rapid decrease and slow change."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mmfixnorm.analysis.parts import broken_line, norm_parts

EPOCHS = np.arange(1, 101) / 2


def broken(before, after, knot=12.0, noise=0.0):
    """A norm whose log is a broken line, with seeded noise."""
    log = 3 + before * np.minimum(EPOCHS, knot) + after * np.maximum(EPOCHS - knot, 0)
    return np.exp(log + noise * np.random.default_rng(0).standard_normal(len(EPOCHS)))


def test_the_known_knot_and_slopes_are_found():
    line = broken_line(EPOCHS.tolist(), np.log(broken(-0.05, 0.002)).tolist())
    assert (line.knot, line.before, line.after) == pytest.approx((12.0, -0.05, 0.002))
    np.testing.assert_allclose(line.fit, np.log(broken(-0.05, 0.002)))


def test_with_noise_the_knot_is_where_an_independent_search_has_it():
    y = np.log(broken(-0.05, 0.002, noise=0.02))

    def error(knot):  # normal equations, for any knot
        basis = np.column_stack([np.ones_like(EPOCHS), np.minimum(EPOCHS, knot), np.maximum(EPOCHS, knot)])
        return np.square(y - basis @ np.linalg.solve(basis.T @ basis, basis.T @ y)).sum()

    best = minimize_scalar(error, bounds=(8, 16), method='bounded').x
    assert broken_line(EPOCHS.tolist(), y.tolist()).knot == pytest.approx(best, abs=0.5)  # between two measurements
    assert best == pytest.approx(12, abs=1)


def test_two_parts_have_the_norms_at_their_ends():
    parts = norm_parts(EPOCHS.tolist(), broken(-0.05, -0.001).tolist())
    assert parts.absence == ''
    expected = [np.exp(3 - 0.05 * 0.5), np.exp(3 - 0.05 * 12), np.exp(3 - 0.05 * 12 - 0.001 * 38)]
    assert parts.norms == pytest.approx(expected)


@pytest.mark.parametrize(
    ('norm', 'why'),
    [
        (broken(0.01, 0.02), 'the norm grows'),
        (broken(-0.0001, 0.02), 'does not fall at first'),
        (broken(0.02, -0.03), 'does not fall at first'),
        (broken(-0.03, -0.02), 'as fast as before'),
        (broken(-0.03, -0.03), 'as fast as before'),
        (np.full(100, 7.0), 'no two parts'),
        (broken(-0.05, 0)[:5], '5 measurements are too few'),
        (np.append(broken(-0.05, 0)[:99], np.nan), 'not finite'),
    ],
)
def test_other_curves_have_no_two_parts_and_it_is_said_why(norm, why):
    assert why in norm_parts(EPOCHS[: len(norm)].tolist(), norm.tolist()).absence


def test_a_broken_line_needs_five_points():
    with pytest.raises(ValueError, match='got 4'):
        broken_line([1, 2, 3, 4], [1, 2, 3, 4])
