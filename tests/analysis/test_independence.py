"""The tests of independence against formulas written out the slow way, in float64."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mmfixnorm.analysis.independence import interaction, ranking_agreement, tukey_non_additivity

ROWS, COLUMNS = np.array([0.0, 0.4, 0.9, 0.3]), np.array([-1.0, 0.2, 0.8, 0.5, -0.6])


def additive(noise=0.0, seed=0):
    table = 76.0 + ROWS[:, None] + COLUMNS[None, :]
    return table + noise * np.random.default_rng(seed).standard_normal(table.shape)


def tukey_by_regression(table):
    """F of the product term, added to the linear model of rows and columns: residual sums of two regressions."""
    r, c = table.shape
    effect = [table[i].mean() - table.mean() for i in range(r)], [table[:, j].mean() - table.mean() for j in range(c)]
    cells = list(itertools.product(range(r), range(c)))
    basis = np.array([[*(i == k for k in range(r)), *(j == k for k in range(1, c))] for i, j in cells], dtype=float)
    product = np.array([effect[0][i] * effect[1][j] for i, j in cells])
    y = np.array([table[cell] for cell in cells])
    without, with_product = (
        np.square(y - b @ np.linalg.lstsq(b, y, rcond=None)[0]).sum()
        for b in (basis, np.column_stack([basis, product]))
    )
    dof = r * c - r - c  # (r - 1)(c - 1) - 1
    return (without - with_product) / (with_product / dof)


@pytest.mark.parametrize('seed', range(5))
def test_tukeys_f_is_that_of_the_product_term_in_a_regression(seed):
    table = additive(noise=0.2, seed=seed)
    test = tukey_non_additivity(table)
    assert test.dof == (1, 11)
    assert test.statistic == pytest.approx(tukey_by_regression(table), rel=1e-8)
    # The F test with one degree of freedom is the two-sided t test.
    assert test.p == pytest.approx(2 * stats.t.sf(test.statistic**0.5, 11))


def test_a_perfectly_additive_table_has_f_0():
    assert tukey_non_additivity(additive()) == (0.0, (1, 11), 1.0)
    assert interaction(np.stack([additive(), additive() + 1e-3], axis=2)).statistic == 0.0


def test_a_planted_interaction_is_found():
    planted = additive(noise=0.05) + 0.8 * np.outer(ROWS - ROWS.mean(), COLUMNS - COLUMNS.mean())
    assert tukey_non_additivity(planted).p < 1e-4
    assert tukey_non_additivity(additive(noise=0.05)).p > 0.05
    exact = additive() + np.outer(ROWS - ROWS.mean(), COLUMNS - COLUMNS.mean())
    assert tukey_non_additivity(exact).statistic == np.inf
    assert tukey_non_additivity(exact).p == 0.0


def test_rows_that_do_not_differ_leave_nothing_to_test():
    table = np.tile(COLUMNS, (3, 1)) + 5.0
    assert tukey_non_additivity(table) == (0.0, (1, 7), 1.0)


def interaction_by_regression(table):
    """F of the full model (a mean for each cell) against the additive one."""
    r, c, n = table.shape
    cells = list(itertools.product(range(r), range(c), range(n)))
    basis = np.array([[*(i == k for k in range(r)), *(j == k for k in range(1, c))] for i, j, _ in cells], dtype=float)
    y = np.array([table[cell] for cell in cells])
    reduced = np.square(y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]).sum()
    full = sum(np.square(table[i, j] - table[i, j].mean()).sum() for i in range(r) for j in range(c))
    return ((reduced - full) / ((r - 1) * (c - 1))) / (full / (r * c * (n - 1)))


@pytest.mark.parametrize('strength', [0.0, 0.5])
def test_the_interaction_is_that_of_two_nested_regressions(strength):
    swap = strength * np.sign(np.outer(ROWS - 0.35, COLUMNS))
    table = np.stack([additive(noise=0.1, seed=seed) + swap for seed in range(3)], axis=2)
    test = interaction(table)
    assert test.dof == (12, 40)
    assert test.statistic == pytest.approx(interaction_by_regression(table), rel=1e-8)
    assert (test.p < 1e-3) == (strength > 0)
    assert test.p == pytest.approx(1 - stats.f.cdf(test.statistic, 12, 40), abs=1e-12)


def kendalls_w(table):
    """12 S / (m^2 (n^3 - n)) without ties, from the sums of ranks."""
    m, n = table.shape
    ranks = [[sum(other <= value for other in row) for value in row] for row in table]
    sums = np.sum(ranks, axis=0)
    return 12 * np.square(sums - sums.mean()).sum() / (m**2 * (n**3 - n))


def test_kendalls_w_is_1_for_the_same_order_and_that_of_the_textbook_otherwise():
    assert ranking_agreement(additive()).w == pytest.approx(1.0)
    table = np.random.default_rng(3).standard_normal((6, 5))
    agreement = ranking_agreement(table)
    assert agreement.w == pytest.approx(kendalls_w(table))
    assert agreement.p == pytest.approx(stats.chi2.sf(6 * 4 * kendalls_w(table), 4))
    assert agreement.p > 0.05 > ranking_agreement(additive()).p


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: tukey_non_additivity(np.eye(2)), 'at least a table of 2 x 3, got 2 x 2'),
        (lambda: tukey_non_additivity(np.full((3, 3), np.nan)), 'finite values'),
        (lambda: interaction(np.zeros((2, 2, 1))), '2 values a cell'),
        (lambda: ranking_agreement(np.eye(2)), 'got 2 x 2'),
        (lambda: ranking_agreement(np.ones((3, 3))), 'every row is constant'),
    ],
)
def test_tables_that_cannot_be_tested_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
