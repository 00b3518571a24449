"""docs/regimes.md and the script that writes its table."""

import runpy
from pathlib import Path

import pytest

from tests.regimes.rows import ROWS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script():
    return runpy.run_path(str(ROOT / 'docs/regimes_table.py'))


def test_the_table_has_exactly_the_rows_of_the_tests(script):
    _, inside, _ = script['split']((ROOT / 'docs/regimes.md').read_text())
    lines = [[cell.strip() for cell in line.strip('|\n').split('|')] for line in inside.splitlines()[2:]]
    assert [(regime, how, note) for regime, how, _, note in lines] == [tuple(row) for row in ROWS.values()]
    assert all(result.startswith(('equal within 1e-', 'refused: "')) for _, _, result, _ in lines)


def test_only_results_of_tests_that_passed_are_taken(script, tmp_path, capsys):
    case = '<testcase><properties><property name="regime" value="{}"/><property name="result" value="r"/></properties>'
    text = case.format('sgd') + '</testcase>' + case.format('adamw') + '<failure/></testcase>'
    path = tmp_path / 'regimes.xml'
    path.write_text(f'<testsuites>{text}</testsuites>')
    assert script['results'](path) == {'sgd': 'r'}
    assert script['main']([str(path)]) == 1
    assert 'no result of sgd_foreach, sgd_fused, adamw' in capsys.readouterr().err
