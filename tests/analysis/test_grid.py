"""Fig. 4 from studies of grids."""

import numpy as np
import pytest

from mmfixnorm.analysis.grid import Grid, grid_chart, independence_notes, read_grid
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.record.compare import read_studies

BOTH = "type='GridSearch', lrs=[1.0, 0.4, 2.8], alphas=[4.0, 1.0]"


def make(values, *, sign=1, diverged=()):
    """A grid from nested lists of one value a cell, or several."""
    values = np.array(values, dtype=float)
    values = values[:, :, None] if values.ndim == 2 else values
    marks = np.zeros(values.shape, dtype=bool)
    for cell in diverged:
        marks[cell] = True
        values[cell] = np.nan
    lrs = [0.4 + 0.6 * j for j in range(values.shape[1])]
    return Grid('accuracy/top1', sign, lrs, [2.0**i for i in range(values.shape[0])], values, marks)


def test_a_study_becomes_columns_of_rising_lr_and_rows_of_rising_alpha(fake_search):
    grid = read_grid(read_studies([fake_search(BOTH, mode='diverge-high')]))
    assert (grid.lrs, grid.alphas) == ([0.4, 1.0, 2.8], [1.0, 4.0])
    formula = [[90 - 10 * np.log(lr / 1.1) ** 2 - np.log(alpha / 4) ** 2 for lr in (0.4, 1.0)] for alpha in (1.0, 4.0)]
    np.testing.assert_allclose(grid.values[:, :2, 0], formula, atol=1e-6)
    assert grid.diverged[:, :, 0].tolist() == [[False, False, True]] * 2
    table = grid_chart(grid).panels
    assert (table.columns, table.rows) == (['lr = 0.4', 'lr = 1', 'lr = 2.8'], ['α = 1', 'α = 4'])
    assert table.texts[1][2] == 'diverged'
    assert table.texts[0][1] == f'{formula[0][1]:.2f}'
    assert (table.row_best, table.column_best) == ([1, 1], [1, 1, None])


def test_grids_of_several_seeds_are_repetitions_and_nothing_else_is(fake_search):
    first, second = (fake_search(f'{BOTH}, seed={s}', name=f'seed{s}') for s in (0, 1))
    assert read_grid(read_studies([first, second / 'study.db'])).values.shape == (2, 3, 2)
    longer = fake_search(f'{BOTH}, seed=2', name='longer', extra='train_cfg["max_epochs"] = 20\n')
    with pytest.raises(ConfigError, match='with another search.seed, but they differ in config.train_cfg.max_epochs$'):
        read_grid(read_studies([first, longer]))
    again = fake_search(f'{BOTH}, seed=0', name='again')
    with pytest.raises(ConfigError, match='two of the studies are the same search'):
        read_grid(read_studies([first, again]))


def test_other_searches_are_refused(fake_search, tmp_path):
    lr_alone = fake_search("type='GridSearch', lrs=[0.4, 1.0]", name='lr')
    with pytest.raises(ConfigError, match='must be a search of type GridSearch with alphas, got .* rate alone'):
        read_grid(read_studies([lr_alone]))
    nothing = fake_search(BOTH, name='nothing', mode='diverge-all')
    with pytest.raises(ConfigError, match='no training of this grid has a value yet'):
        read_grid(read_studies([nothing]))
    some = fake_search(f'{BOTH}, seed=1', name='some')
    with pytest.raises(ConfigError, match='has a value from each of the 2 searches yet'):
        read_grid(read_studies([some, nothing]))
    with pytest.raises(ConfigError, match=r'no record of a search here \(no study\.db\)'):
        read_studies([tmp_path])


def test_it_is_said_how_far_the_lr_of_the_best_cell_falls_short_in_each_row():
    notes = grid_chart(make([[70, 74, 73], [71, 75, 75.5], [69, 76, 71]])).notes
    assert notes[0] == 'best cell: lr 1, alpha 4, accuracy/top1 76'
    assert notes[1] == 'alpha 1: best lr 1 (74), as in the best cell'
    assert notes[2] == 'alpha 2: best lr 1.6 (75.5); lr 1 of the best cell falls short of it by 0.5'
    assert notes[6] == 'lr 1.6: best alpha 2 (75.5); alpha 4 of the best cell falls short of it by 4.5'


def test_with_a_rule_of_less_the_lowest_value_is_best_and_ties_go_to_the_lower_lr():
    table = grid_chart(make([[3, 2, 2], [1, 5, 4]], sign=-1)).panels
    assert (table.row_best, table.column_best) == ([1, 0], [1, 0, 0])


def test_columns_with_a_diverged_cell_leave_the_tests_and_are_named():
    additive = [[60, 63, 61, 62], [61, 64, 62, 63], [58, 61, 59, 60]]
    grid = make(additive, diverged=[(2, 3)])
    notes = independence_notes(grid)
    assert notes[0] == 'left out of the tests, as trainings diverged or are missing: lr 2.2'
    assert notes[1].endswith('F(1, 3) = 0, p = 1: no evidence against additive effects')
    assert 'the 3 alphas rank the 3 learning rates with an agreement of 1.00' in notes[2]
    assert grid_chart(grid).panels.texts[2][3] == 'diverged'


def test_an_alpha_that_always_diverges_leaves_the_tests_alone():
    grid = make([[60, 63, 61], [61, 64, 62], [0, 0, 0]], diverged=[(2, 0), (2, 1), (2, 2)])
    notes = independence_notes(grid)
    assert notes[0].endswith('missing: alpha 4')
    assert 'F(1, 1)' in notes[1]


def test_an_lr_whose_best_alpha_swaps_speaks_against_additive_effects():
    swapped = [[70, 72, 74, 76], [71, 72, 73, 74.5], [72, 72, 72, 72], [74, 72.1, 70, 68]]
    (note,) = [n for n in independence_notes(make(swapped)) if 'Tukey' in n]
    assert ': against additive effects' in note


def test_repetitions_give_the_interaction_and_a_spread_in_each_cell():
    noise = np.random.default_rng(0).standard_normal((3, 4, 2))
    grid = make(70.0 + np.arange(3)[:, None, None] + np.arange(4)[None, :, None] + 0.1 * noise)
    (note,) = [n for n in independence_notes(grid) if 'ANOVA, 2 values a cell' in n]
    assert 'F(6, 12)' in note
    values = grid.values[0, 0]
    expected = f'{values.mean():.2f}\n±{abs(values[0] - values[1]) / 2**0.5:.2g}'
    assert grid_chart(grid).panels.texts[0][0] == expected


def test_a_cell_that_diverged_with_one_seed_is_shown_as_that():
    grid = make(np.full((2, 3, 2), 70.0) + np.arange(3)[None, :, None], diverged=[(0, 2, 1)])
    table = grid_chart(grid).panels
    assert table.texts[0][2] == 'diverged\n1 of 2'
    assert np.isnan(table.values[0][2])
    assert table.row_best == [1, 2]


def test_tables_too_small_for_a_test_are_told():
    notes = independence_notes(make([[70, 71]]))
    assert notes[0] == 'no test of independence: 1 alphas x 2 learning rates are too few'
    assert notes[1].startswith('no test of how far the alphas agree')
