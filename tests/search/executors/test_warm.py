"""The executor of the benchmarks, whose trials are forked from a process that has the toolbox."""

from pathlib import Path

import pytest

from benchmarks.warm_executor import WarmExecutor
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.trial.folder import LOG_FILE

HERE = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_trial_trains_to_its_end_and_writes_its_log(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv('PYTHONPATH', str(HERE))
    options = {'search.lrs': [0.4], 'search.max_attempts': 1}
    problem = load_problem(HERE / 'toy_config.py', work_dir=tmp_path / 'search', cfg_options=options)
    outcome = run_search(problem, executor=WarmExecutor(1), poll_s=0.05)
    assert outcome.kind == 'done', outcome.message
    (attempt,) = read_record(problem.work_dir).attempts
    assert (attempt.result.outcome, attempt.result.length) == ('done', 4)
    (trial,) = problem.trials_dir.iterdir()
    assert f'trial in {trial}, 1 threads' in (trial / LOG_FILE).read_text()
