"""Fig. 5 from studies."""

import math

import pytest

from mmfixnorm.analysis.search_progress import search_chart
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.record.compare import read_studies

GRID = "type='GridSearch', lrs=[0.5, 1.0, 3.0]"


@pytest.fixture(scope='module')
def chart(fake_search):
    """Algorithm 4 beside a grid; trainings above lr 2.5 diverge."""
    search = fake_search('lr_range=(0.2, 3.2)', name='search', mode='diverge-high')
    grid = fake_search(GRID, name='grid', mode='diverge-high')
    return search_chart(read_studies([search, grid], ['FixNorm', 'WD']))


def test_the_left_panel_has_the_best_so_far_of_each_study_against_its_cost(chart):
    panel = chart.panels[0]
    assert (panel.x_title, panel.y_title) == ('cost in T_max', 'best accuracy/top1 so far')
    search, grid = panel.lines
    assert (search.name, search.x[-1], search.y[-1], search.steps) == ('FixNorm', 11.0, 90.0, True)
    assert len(search.x) == 15
    known = [value for value in search.y if not math.isnan(value)]
    assert known == sorted(known)
    assert (grid.name, grid.x, grid.y[-1]) == ('WD', [1.0, 2.0, 3.0], pytest.approx(90 - 10 * math.log(1 / 1.1) ** 2))


def test_each_fixnorm_study_has_a_panel_with_its_rounds_and_the_best_after_alpha(chart):
    assert len(chart.panels) == 2  # none for the grid
    details = chart.panels[1]
    assert (details.x_title, details.title) == ('learning rate', 'search details: FixNorm')
    first, second = details.lines
    assert first.x == [0.8, 1.4, 2.0, 2.6, 3.2]
    assert [math.isnan(value) for value in first.y] == [False] * 3 + [True] * 2
    assert second.x == [0.2, 0.5, 0.8, 1.1, 1.4]
    (star,) = details.stars
    assert (star.name, star.x, star.y) == ('best after searching alpha', 1.1, 90.0)


def test_the_numbers_are_said(chart):
    notes = '\n'.join(chart.notes)
    assert 'FixNorm: best accuracy/top1 90, reached at ' in notes
    assert '15 trainings, 11 of 11 T_max' in notes
    assert 'FixNorm, round 0: [0.2, 3.2], best lr 1.4' in notes
    assert 'diverged at 2.6, 3.2' in notes
    assert 'FixNorm, alpha at lr 1.1: 0.5: ' in notes


def test_a_search_that_is_not_over_has_no_star(fake_search):
    work_dir = fake_search('lr_range=(0.2, 3.2), num_splits=2, max_attempts=1', mode='fail-alpha-1')
    chart = search_chart(read_studies([work_dir]))
    assert chart.panels[1].stars == []
    assert [len(line.x) for line in chart.panels[1].lines] == [2, 2]


def test_a_search_without_a_value_is_told(fake_search):
    chart = search_chart(read_studies([fake_search(GRID, mode='diverge-all')]))
    assert chart.notes == ['search: no training has a value yet']


def test_the_record_says_itself_what_was_searched(fake_search):
    work_dir = fake_search("lr_range=(0.1, 0.9), num_splits=3, alphas=[2.0, 8.0], rule='less', metric='loss', seed=7")
    (study,) = read_studies([work_dir / 'study.db'])
    settings = study.settings
    assert (settings.kind, settings.lr_range, settings.num_splits) == ('FixNormSearch', (0.1, 0.9), 3)
    assert (settings.alphas, settings.rule, settings.seed) == ((2.0, 8.0), 'less', 7)
    assert study.state.planned_cost == pytest.approx(3 * 0.2 + 3 + 1)


def test_mistakes_are_named(fake_search):
    a, b = (fake_search(f"{GRID}, metric='{m}'", name=m) for m in ('acc', 'map'))
    for work_dirs, labels, message in [
        ([a, b], None, 'must be for one metric and rule'),
        ([a, a / 'study.db'], None, 'is given twice'),
        ([a], ['x', 'y'], '--labels: must be one for each of the 1 work dirs, got 2'),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_studies(work_dirs, labels)
