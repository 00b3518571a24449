"""The file of ``--json``: refused before what takes long, and what was measured is printed whatever becomes of it."""

import os

import pytest

from mmfixnorm import cli
from mmfixnorm.cli._output import check_writable
from mmfixnorm.lr_range import LRRamp

MEASURING = {'lr-range': 'mmfixnorm.lr_range.measure_lr_range', 'audit': 'mmfixnorm.convert.audit.audit_config'}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\n")
    return str(path)


@pytest.mark.parametrize('command', MEASURING)
def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(
    config, tmp_path, capsys, monkeypatch, command
):
    def measure(*arguments, **keys):
        raise AssertionError('measured')

    monkeypatch.setattr(MEASURING[command], measure)
    assert cli.main([command, config, '--json', str(tmp_path / 'nowhere/ramp.json')]) == 2
    told = f'--json: cannot write {str(tmp_path / "nowhere/ramp.json")!r} (No such file or directory)'
    assert told in capsys.readouterr().err


def test_a_range_is_printed_although_its_file_cannot_be_written_any_more(config, tmp_path, capsys, monkeypatch):
    def measure(*arguments, **keys):
        (tmp_path / 'ramp.json').mkdir()
        return LRRamp((0.1, 0.8), 0.7, [[0.1, 2.3, 0.01, 0.02]], 1, 0.01)

    monkeypatch.setattr(MEASURING['lr-range'], measure)
    assert cli.main(['lr-range', config, '--json', str(tmp_path / 'ramp.json')]) == 2
    shown = capsys.readouterr()
    assert shown.out.endswith('lr_range = (0.1, 0.8)\n')
    assert '--json: cannot write' in shown.err


def test_the_check_leaves_what_is_there(tmp_path):
    check_writable(str(tmp_path / 'new.json'), named_by='--json')
    assert not (tmp_path / 'new.json').exists()
    (tmp_path / 'old.json').write_text('{}')
    check_writable(str(tmp_path / 'old.json'), named_by='--json')
    assert (tmp_path / 'old.json').read_text() == '{}'
    os.mkfifo(tmp_path / 'pipe')
    check_writable(str(tmp_path / 'pipe'), named_by='--json')  # else it would wait for a reader
