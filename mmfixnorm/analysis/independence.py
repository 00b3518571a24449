"""Tests on a table of results of whether two settings act independently (Fig. 4).

Rows and columns of a table are the values of the two settings. Independent means additive: a cell is the sum of a row
effect and a column effect, so that the best column is the same in every row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Table = NDArray[np.float64]


class FTest(NamedTuple):
    """An F test; a small ``p`` is evidence against additive effects."""

    statistic: float
    dof: tuple[int, int]
    p: float


class Agreement(NamedTuple):
    """The degree to which the rows rank the columns alike.

    Attributes:
        w: Kendall's W, from 0 (no agreement) to 1 (all rows rank alike).
        p: p-value of Friedman's test; a small one means that the rows agree more than by chance.
    """

    w: float
    p: float


class _Effects(NamedTuple):
    rows: Table
    columns: Table
    residuals: Table


def tukey_non_additivity(table: Table) -> FTest:
    """Apply Tukey's test with one degree of freedom, for one value in each cell (Tukey, 1949).

    With row effects ``a_i`` and column effects ``b_j``, ``SS = (sum a_i b_j y_ij)^2 / (sum a_i^2 sum b_j^2)`` is the
    part of the residuals explained by the product of the effects; it is compared to the remaining part.

    Args:
        table: Finite values of shape (R, C), with (R - 1) (C - 1) >= 2.

    Raises:
        ValueError: If the table is too small or not finite.
    """
    rows, columns = _shape(table, 2)
    dof = (1, (rows - 1) * (columns - 1) - 1)
    if dof[1] < 1:
        raise ValueError(f"Tukey's test needs at least a table of 2 x 3, got {rows} x {columns}")
    effects = _effects(table)
    negligible = _rounding(table)
    if min(np.square(effects.rows).sum(), np.square(effects.columns).sum()) <= negligible:
        return FTest(0.0, dof, 1.0)  # one of the two settings has no effect, so there is no product
    product = np.outer(effects.rows, effects.columns)
    explained = product * (product * effects.residuals).sum() / np.square(product).sum()
    rest = np.square(effects.residuals - explained).sum()
    return _f_test(float(np.square(explained).sum()), float(rest), dof, negligible)


def interaction(table: Table) -> FTest:
    """Apply the F test of the interaction in a two-way analysis of variance, for several values in each cell.

    Args:
        table: Finite values of shape (R, C, replicates), with at least two of each.

    Raises:
        ValueError: If the table is too small or not finite.
    """
    rows, columns, replicates = _shape(table, 3)
    if min(rows, columns, replicates) < 2:
        raise ValueError(f'needs at least 2 rows, 2 columns and 2 values a cell, got {table.shape}')
    cells = table.mean(axis=2)
    between = replicates * float(np.square(_effects(cells).residuals).sum())
    within = float(np.square(table - cells[:, :, None]).sum())
    return _f_test(between, within, ((rows - 1) * (columns - 1), rows * columns * (replicates - 1)), _rounding(table))


def ranking_agreement(table: Table) -> Agreement:
    """Compute Kendall's W of the rows' rankings of the columns, with the p of Friedman's test, corrected for ties.

    Args:
        table: Finite values of shape (R, C), R >= 2 and C >= 3; at least one row must not be constant.

    Raises:
        ValueError: If the table is too small, not finite or constant in every row.
    """
    rows, columns = _shape(table, 2)
    if rows < 2 or columns < 3:
        raise ValueError(f'an agreement of rankings needs at least a table of 2 x 3, got {rows} x {columns}')
    if np.all(table == table[:, :1]):
        raise ValueError('every row is constant: there is no ranking')
    friedman = stats.friedmanchisquare(*table.T)
    return Agreement(float(friedman.statistic) / (rows * (columns - 1)), float(friedman.pvalue))


def _effects(table: Table) -> _Effects:
    mean = table.mean()
    rows = table.mean(axis=1) - mean
    columns = table.mean(axis=0) - mean
    return _Effects(rows, columns, table - mean - rows[:, None] - columns[None, :])


def _f_test(explained: float, rest: float, dof: tuple[int, int], negligible: float) -> FTest:
    if explained <= negligible:
        return FTest(0.0, dof, 1.0)
    if rest <= negligible:
        return FTest(float('inf'), dof, 0.0)
    statistic = (explained / dof[0]) / (rest / dof[1])
    return FTest(statistic, dof, float(stats.f.sf(statistic, *dof)))


def _rounding(table: Table) -> float:
    """Estimate the largest sum of squares that rounding alone can produce from equal values of this size."""
    return float(table.size * np.square(16 * np.finfo(np.float64).eps * np.abs(table).max()))


def _shape(table: Table, dimensions: int) -> tuple[int, ...]:
    if table.ndim != dimensions or not np.isfinite(table).all():
        raise ValueError(f'needs finite values in {dimensions} dimensions, got shape {table.shape}')
    return table.shape
