"""A study of 2000 trials; benchmarks/large_study.py measures the times."""

import importlib.util
import io
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import STUDY_FILE, read_record
from mmfixnorm.search.report import write_report
from mmfixnorm.search.terminal.console import print_state

BENCHMARK = Path(__file__).parents[2] / 'benchmarks' / 'large_study.py'


@pytest.fixture(scope='module')
def large_study():
    spec = importlib.util.spec_from_file_location('large_study', BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_read_is_what_optuna_reads(large_study, tmp_path):
    problem = large_study.make_study(tmp_path, 30, logs=False)
    record = read_record(problem.work_dir)
    study = optuna.load_study(study_name='search', storage=f'sqlite:///{problem.work_dir / STUDY_FILE}')
    assert len(study.trials) == 30
    for attempt, trial in zip(record.attempts, study.trials, strict=True):
        assert attempt.result.value == trial.value
        assert {'lr': attempt.spec.point.lr, 'alpha': attempt.spec.point.alpha} == trial.params
        assert (attempt.spec.key, attempt.cost) == (trial.user_attrs['key'], trial.user_attrs['cost'])
    assert record.identity == study.user_attrs['identity']


@pytest.mark.slow
def test_2000_trials_are_told_in_less_than_5_mb(large_study, tmp_path):
    problem = large_study.make_study(tmp_path, 2000)
    state = search_state(problem, read_record(problem.work_dir))
    console = Console(file=io.StringIO(), width=120)
    print_state(problem, state, console)
    assert 'winner: ' in console.file.getvalue()
    report = write_report(problem, read_record(problem.work_dir)).report
    assert report.stat().st_size < 5e6
    assert report.read_text().count('<details>') == 2000
