"""Fig. 4: results of a grid over learning rate and alpha, and whether the two act independently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfixnorm.analysis.independence import Table, interaction, ranking_agreement, tukey_non_additivity
from mmfixnorm.errors import ConfigError
from mmfixnorm.plot.chart import Chart, HeatMap
from mmfixnorm.search.methods.base import StageKind
from mmfixnorm.search.methods.grid import GridSearch
from mmfixnorm.search.problem import differences
from mmfixnorm.search.record.compare import Study

_SEEDS = frozenset({'search.seed', 'config.randomness.seed'})


class Grid(NamedTuple):
    """A grid's results.

    Attributes:
        metric: Name of the metric.
        sign: 1 if greater is better, else -1.
        lrs: Learning rates in ascending order: the columns.
        alphas: Alphas in ascending order: the rows.
        values: Shape (alphas, lrs, studies); NaN where a training diverged or is unfinished.
        diverged: Same shape: whether it diverged.
    """

    metric: str
    sign: int
    lrs: list[float]
    alphas: list[float]
    values: Table
    diverged: NDArray[np.bool_]

    @property
    def means(self) -> Table:
        """Mean of each cell; NaN if any of its trainings has no value."""
        return self.values.mean(axis=2)


def read_grid(studies: Sequence[Study]) -> Grid:
    """Read the values of one grid over lr and alpha; several studies are its repetitions with other seeds.

    Raises:
        ConfigError: If a study is not a grid over both, if the studies differ in more than their seed or have the same
            seed, or if there is no value yet.
    """
    first = studies[0]
    for study in studies:
        if not isinstance(study.settings, GridSearch) or study.settings.alphas is None:
            raise ConfigError(
                f'{study.work_dir}: must be a search of type GridSearch with alphas, got {study.settings.kind}'
                + (' over the learning rate alone' if isinstance(study.settings, GridSearch) else '')
            )
        _check_same_but_seed(first, study)
    same = [prints for prints, count in Counter(s.record.fingerprint for s in studies).items() if count > 1]
    if same:
        raise ConfigError('two of the studies are the same search; repetitions must differ in search.seed')
    points = [spec.point for stage in first.state.replayed.stages for spec in stage.specs]
    lrs = sorted({point.lr for point in points})
    alphas = sorted({point.alpha for point in points if point.alpha is not None})
    values = np.full((len(alphas), len(lrs), len(studies)), np.nan)
    diverged = np.zeros(values.shape, dtype=np.bool_)
    for k, study in enumerate(studies):
        of_grid = study.state.replayed.keys_of(StageKind.GRID)
        for row in study.state.rows:
            if row.key in of_grid and row.point.alpha is not None:
                cell = alphas.index(row.point.alpha), lrs.index(row.point.lr), k
                values[cell] = np.nan if row.value is None else row.value
                diverged[cell] = row.outcome == 'diverged'
    grid = Grid(first.settings.metric, 1 if first.settings.rule == 'greater' else -1, lrs, alphas, values, diverged)
    if np.isnan(grid.means).all():
        having = 'a value' if len(studies) == 1 else f'a value from each of the {len(studies)} searches'
        raise ConfigError(f'{first.work_dir}: no training of this grid has {having} yet')
    return grid


def _check_same_but_seed(first: Study, other: Study) -> None:
    differing = [k for k in differences(first.record.identity, other.record.identity) if k not in _SEEDS]
    if differing:
        raise ConfigError(
            f'{other.work_dir}: must be the search of {first.work_dir} with another search.seed, but they differ in '
            f'{", ".join(differing[:5])}' + (f' and {len(differing) - 5} more' if len(differing) > 5 else '')
        )


def grid_chart(grid: Grid) -> Chart:
    """Plot lr from left to right and alpha from top to bottom, marking the best of each row and column (Fig. 4)."""
    means = grid.means
    table = HeatMap(
        x_title='learning rate',
        y_title='alpha',
        value_title=grid.metric,
        columns=[f'lr = {lr:g}' for lr in grid.lrs],
        rows=[f'α = {alpha:g}' for alpha in grid.alphas],
        values=means.tolist(),
        texts=[[_cell_text(grid, i, j) for j in range(len(grid.lrs))] for i in range(len(grid.alphas))],
        row_best=_best(means, grid.sign),
        column_best=_best(means.T, grid.sign),
        row_best_name='best lr of the row',
        column_best_name='best alpha of the column',
    )
    return Chart(
        f'{grid.metric} for different lr and alpha', table, notes=[*best_notes(grid), *independence_notes(grid)]
    )


def _cell_text(grid: Grid, i: int, j: int) -> str:
    values, diverged = grid.values[i, j], grid.diverged[i, j]
    if diverged.any():
        return 'diverged' if diverged.all() else f'diverged\n{diverged.sum()} of {len(diverged)}'
    if np.isnan(values).any():
        return 'no value yet'
    return f'{values.mean():#.4g}' + (f'\n±{values.std(ddof=1):.2g}' if len(values) > 1 else '')


def _best(table: Table, sign: int) -> list[int | None]:
    """Find the best value in each row; among equal ones the first, with the lower lr or alpha."""
    return [None if np.isnan(row).all() else int(np.nanargmax(sign * row)) for row in table]


def best_notes(grid: Grid) -> list[str]:
    """State the best lr for each alpha, and how far the lr of the best cell falls short of it; the same for each lr."""
    means = grid.means
    i, j = np.unravel_index(np.nanargmax(grid.sign * means), means.shape)
    alphas, lrs = [f'alpha {alpha:g}' for alpha in grid.alphas], [f'lr {lr:g}' for lr in grid.lrs]
    best = f'best cell: {lrs[j]}, {alphas[i]}, {grid.metric} {means[i, j]:.4g}'
    rows = _shortfalls(means, grid.sign, int(j), alphas, lrs)
    return [best, *rows, *_shortfalls(means.T, grid.sign, int(i), lrs, alphas)]


def _shortfalls(table: Table, sign: int, chosen: int, rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    notes = []
    for name, row, best in zip(rows, table, _best(table, sign), strict=True):
        if best is None:
            notes.append(f'{name}: no value, as its trainings diverged or are missing')
            continue
        short = sign * (row[best] - row[chosen])
        gap = 'has no value' if np.isnan(short) else f'falls short of it by {short:.3g}'
        rest = ', as in the best cell' if best == chosen else f'; {columns[chosen]} of the best cell {gap}'
        notes.append(f'{name}: best {columns[best]} ({row[best]:.4g}){rest}')
    return notes


def independence_notes(grid: Grid) -> list[str]:
    """State what the tests say about lr and alpha acting independently.

    Alphas without any complete cell are left out, then learning rates with a diverged or missing training at one of the
    remaining alphas.
    """
    missing = np.isnan(grid.means)
    rows = np.flatnonzero(~missing.all(axis=1))
    columns = np.flatnonzero(~missing[rows].any(axis=0))
    table = grid.values[np.ix_(rows, columns)]
    return [*_left_out(grid, rows, columns), _additivity_note(table), *_agreement_notes(table.mean(axis=2))]


def _left_out(grid: Grid, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> list[str]:
    excluded = [f'alpha {alpha:g}' for i, alpha in enumerate(grid.alphas) if i not in rows]
    excluded += [f'lr {lr:g}' for j, lr in enumerate(grid.lrs) if j not in columns]
    return [f'left out of the tests, as trainings diverged or are missing: {", ".join(excluded)}'] if excluded else []


def _additivity_note(table: Table) -> str:
    rows, columns, replicates = table.shape
    if min(rows, columns) < 2 or (replicates == 1 and (rows - 1) * (columns - 1) < 2):
        return f'no test of independence: {rows} alphas x {columns} learning rates are too few'
    if replicates > 1:
        test, name = interaction(table), f'interaction of lr and alpha (two-way ANOVA, {replicates} values a cell)'
    else:
        test, name = tukey_non_additivity(table[:, :, 0]), "Tukey's test of non-additivity (one value a cell)"
    verdict = 'against' if test.p < 0.05 else 'no evidence against'
    return (
        f'{name}: F({test.dof[0]}, {test.dof[1]}) = {test.statistic:.3g}, p = {test.p:.2g}: {verdict} additive effects'
    )


def _agreement_notes(means: Table) -> list[str]:
    notes = []
    for table, judges, ranked in ((means, 'alphas', 'learning rates'), (means.T, 'learning rates', 'alphas')):
        if len(table) < 2 or table.shape[1] < 3 or np.all(table == table[:, :1]):
            notes.append(f'no test of how far the {judges} agree on the ranking of the {ranked}: too few or all equal')
            continue
        w, p = ranking_agreement(table)
        notes.append(
            f'the {len(table)} {judges} rank the {table.shape[1]} {ranked} with an agreement of {w:.2f} '
            f"(Kendall's W; 1 = all alike), p = {p:.2g} (Friedman)"
        )
    return notes
