"""The record as JSON lines and CSV says what is in study.db."""

import csv
import io
import json

import pytest

from mmfixnorm.cli.search import main
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import read_record


@pytest.fixture
def searched(make_search, small):
    search = make_search(small)
    assert search.run('kill-once').kind == 'done'
    return search


@pytest.fixture
def export(searched, capsys):
    """Run the command; return what it prints."""

    def run(*options):
        assert main(['export', searched.config, '--work-dir', str(searched.work_dir), *options]) == 0
        return capsys.readouterr().out

    return run


def test_each_attempt_is_a_line_of_json_with_everything_that_is_known(searched, export):
    rows = [json.loads(line) for line in export().splitlines()]
    attempts = read_record(searched.work_dir).attempts
    assert len(rows) == len(attempts) == 6  # five trainings, one of them in two attempts
    for row, attempt in zip(rows, attempts):
        assert (row['search'], row['key'], row['lr']) == ('search', attempt.spec.key, attempt.spec.point.lr)
        assert {name: row[name] for name in vars(attempt.result)} == vars(attempt.result)
    state = search_state(searched.problem(), read_record(searched.work_dir))
    assert rows[-1]['cost_so_far'] == sum(row['cost'] for row in rows) == state.cost


def test_a_table_has_the_same_rows_without_lists(export):
    lines = [json.loads(line) for line in export().splitlines()]
    cells = list(csv.DictReader(io.StringIO(export('--format', 'csv'))))
    assert [cell['key'] for cell in cells] == [line['key'] for line in lines]
    assert [float(cell['value']) if cell['value'] else None for cell in cells] == [line['value'] for line in lines]
    assert not any(isinstance(lines[0][name], (list, dict)) for name in cells[0])
    assert set(lines[0]) - set(cells[0]) == {name for name, v in lines[0].items() if isinstance(v, (list, dict))}


def test_numbers_of_a_space_have_columns_of_their_own(make_search, capsys):
    space = "space={'optim_wrapper.optimizer.momentum': (0.8, 0.99)}"
    search = make_search(
        f"type='RandomSearch', lr_range=(0.1, 1.0), alpha_range=(0.5, 4.0), {space}, num_trials=2",
        extra="optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))\n",
    )
    assert search.run().kind == 'done'
    assert main(['export', search.config, '--work-dir', str(search.work_dir), '--format', 'csv']) == 0
    cells = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    proposed = [dict(a.spec.point.others) for a in search.record().attempts]
    key = 'optim_wrapper.optimizer.momentum'
    assert [float(cell[key]) for cell in cells] == [others[key] for others in proposed]


def test_without_a_record_it_says_so(make_search, small, capsys):
    search = make_search(small)
    assert main(['export', search.config, '--work-dir', str(search.work_dir)]) == 2
    assert 'no search was started' in capsys.readouterr().err
