"""An executor is one file and one line in the table: nothing else of the package is touched."""

import pytest

from mmfixnorm.cli.search import main
from mmfixnorm.search.executors import EXECUTORS, build_executor, parse_executor
from mmfixnorm.search.methods import parse_settings
from tests.search.executors.conformance import ExecutorConformance, Kind
from tests.search.executors.toy_executor import ToyExecutor, ToySettings


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(EXECUTORS, 'toy', ToySettings)


class TestToy(ExecutorConformance):
    @pytest.fixture
    def executor(self, registered):
        def make(command, workers=1):
            return build_executor(parse_settings(dict(executor='toy', workers=workers)), command)

        return Kind(make, 'toy', r'toy \d+$', r'killed by signal 9 \(SIGKILL\)')


def test_it_is_known_by_its_name(registered):
    assert isinstance(
        parse_executor(dict(type='toy', gpus_per_trial=2)).build(workers=1, command=['x'], timeout_s=1), ToyExecutor
    )


@pytest.mark.parametrize('by', ['config', 'option'])
def test_a_search_runs_with_it_from_the_command_line(registered, make_search, small, fake_trial, by):
    search = make_search(small + (", executor='toy'" if by == 'config' else ''))
    option = ['--executor', 'toy'] if by == 'option' else []
    arguments = ['run', search.config, '--work-dir', str(search.work_dir), *option]
    assert main(arguments, trial_command=fake_trial('plain')) == 0
    claims = sorted(p.read_text().split()[0] for p in search.work_dir.glob('trials/*/*.claim'))
    assert claims == ['toy'] * 5
