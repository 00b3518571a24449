"""What runs the evidence: groups are trained once, and more seeds join those that are there."""

import json

import pytest

from benchmarks.evidence import lab as of_lab
from mmfixnorm.search import Point

CONFIG = """
_base_ = [{base!r}]
test_dataloader = _base_.val_dataloader
test_evaluator = _base_.val_evaluator
test_cfg = dict()
"""


@pytest.fixture
def lab(tmp_path, monkeypatch, pytestconfig):
    tests = pytestconfig.rootpath / 'tests/search'
    (tmp_path / 'config.py').write_text(CONFIG.format(base=str(tests / 'toy_config.py')))
    monkeypatch.syspath_prepend(str(tests))
    monkeypatch.setattr(of_lab, 'RESULTS', tmp_path)
    monkeypatch.chdir(tmp_path)
    return of_lab.Lab('made-up', 1, tmp_path / 'work')


def test_more_seeds_join_a_group_and_what_is_there_is_not_trained_again(lab, tmp_path):
    config, point = str(tmp_path / 'config.py'), Point(0.1, None, None)
    lab.finals('method/test', config, point, seeds=(3, 4))
    before = (tmp_path / 'made-up.jsonl').read_text()
    again = of_lab.Lab('made-up', 1, tmp_path / 'work')
    again.finals('method/test', config, point, seeds=(3, 4))
    assert (tmp_path / 'made-up.jsonl').read_text() == before
    again.finals('method/test', config, point, seeds=(3, 4, 5))
    text = (tmp_path / 'made-up.jsonl').read_text()
    assert text.startswith(before)
    head, *runs = map(json.loads, text.splitlines())
    assert head['point'] == [0.1, None, None]
    assert [run.get('seed') for run in runs] == [3, 4, 5]
    assert len(again.lines) == 4
    with pytest.raises(SystemExit, match=r'was trained at \[0.1, None, None\], now \[0.2, None, None\] is asked for'):
        again.finals('method/test', config, Point(0.2, None, None), seeds=(6,))
