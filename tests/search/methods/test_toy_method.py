"""A method is one file and one line in the table: planned, run, shown and reported without touching anything else."""

import pytest

from mmfixnorm.cli.search import main
from mmfixnorm.search.methods import METHODS
from tests.search.methods import toy_method


@pytest.fixture
def search(monkeypatch, make_search):
    monkeypatch.setitem(METHODS, 'ToySearch', toy_method.METHOD)
    return make_search("type='ToySearch', steps=3")


def test_it_is_planned_run_shown_and_reported(search, fake_trial, capsys):
    def command(action):
        code = main([action, search.config, '--work-dir', str(search.work_dir)], trial_command=fake_trial('plain'))
        return code, capsys.readouterr().out

    code, out = command('plan')
    assert code == 0
    assert all(words in out for words in ('step0-down', '0.4', '1.6', 'in all: 6 trainings, 6 T_max'))
    assert command('run')[0] == 0
    # 0.4 or 1.6, then 0.8 or 3.2, then 0.4 or 1.6 again: the formula is best at 1.1.
    assert search.trainings() == [f'step{i}-{name}' for i in range(2) for name in ('down', 'up')]
    code, out = command('status')
    assert (code, 'winner: lr 0.8' in out) == (0, True)
    assert '4 of 6 T_max, 2 saved' in out  # the last two points were trained before
    assert command('report')[0] == 0
    page = (search.work_dir / 'report.html').read_text()
    assert all(words in page for words in ('ToySearch', 'step 2', 'step1-down', 'winner: lr 0.8'))


def test_its_settings_are_checked_and_are_its_identity(search, write_config, capsys):
    assert search.problem().settings.identity()['type'] == 'ToySearch'
    assert main(['plan', write_config("type='ToySearch', steps=0", name='other.py')]) == 2
    assert 'search.steps: must be an integer >= 1, got 0' in capsys.readouterr().err
