"""Real trainings that are killed, hang, or meet a full disk; ``test_trial.py`` has one that is killed in the middle."""

import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from mmfixnorm.search import driver
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.claim import read_claim
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import read_record

HERE = Path(__file__).parent
FORK = multiprocessing.get_context('fork')


@pytest.fixture(scope='module', autouse=True)
def toy_toolbox():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(HERE))  # for the processes of the trials
        yield


def problem_in(work_dir, **options):
    options = {'search.keep_weights': 'all', **{k.replace('__', '.'): v for k, v in options.items()}}
    return load_problem(HERE / 'toy_config.py', work_dir=work_dir, cfg_options=options)


def what_was_found(problem):
    """The table of a search, with the curve and the last weights of each training."""
    record = read_record(problem.work_dir)
    rows = {r.key: (r.outcome, r.point.lr, r.point.alpha, r.value) for r in search_state(problem, record).rows}
    curves = {a.spec.key: a.result.curve for a in record.attempts if a.result.outcome == 'done'}
    paths = {key: problem.trial_dir(key) / 'run' / 'epoch_4.pth' for key in rows}
    weights = {key: torch.load(path, weights_only=False)['state_dict'] for key, path in paths.items()}
    flat = {key: torch.cat([t.flatten() for t in state.values()]).tolist() for key, state in weights.items()}
    return rows, curves, flat


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, toy_toolbox):
    problem = problem_in(tmp_path_factory.mktemp('undisturbed'))
    assert run_search(problem).kind == 'done'
    return what_was_found(problem)


def wait_for(path, seconds=120):
    give_up = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_9_of_the_driver_of_real_trainings_changes_nothing(tmp_path, undisturbed):
    problem = problem_in(tmp_path)

    def die_while_the_second_trains(event):
        if event.kind == 'submitted' and event.data['key'] == 'grid-01':
            wait_for(problem.trial_dir('grid-01') / 'run' / 'epoch_1.pth')
            os.kill(os.getpid(), signal.SIGKILL)

    first = FORK.Process(target=run_search, args=(problem,), kwargs={'listener': die_while_the_second_trains})
    first.start()
    first.join(300)
    assert first.exitcode == -signal.SIGKILL
    assert [a.spec.key for a in read_record(tmp_path).attempts] == ['grid-00']
    heard = []
    assert run_search(problem, listener=lambda e: heard.append(e.kind)).kind == 'done'
    assert 'adopted' in heard
    assert 'submitted' not in heard
    assert what_was_found(problem) == undisturbed


@pytest.mark.slow
def test_a_node_that_disappears_in_a_write_costs_the_time_since_the_checkpoint_before(tmp_path, undisturbed):
    problem = problem_in(tmp_path, model__killed_once=str(tmp_path / 'gone'))  # both train it, one dies: in epoch 3

    def tear(event):
        if event.kind == 'recorded' and event.data['outcome'] == 'failed':
            run = problem.trial_dir(event.data['key']) / 'run'
            newest = run / 'epoch_2.pth'
            newest.write_bytes(newest.read_bytes()[:-1000])
            (run / 'last_checkpoint').write_text('/nowhere/epo')

    assert run_search(problem, listener=tear).kind == 'done'
    attempts = read_record(tmp_path).attempts
    assert [(a.spec.key, a.result.outcome) for a in attempts] == [
        ('grid-00', 'failed'),
        ('grid-00', 'done'),
        ('grid-01', 'done'),
    ]
    assert 'killed by signal 9 (SIGKILL)' in attempts[0].result.message
    log = (problem.trial_dir('grid-00') / 'log.txt').read_text()
    assert re.search(r'epoch_2\.pth cannot be loaded', log)
    assert re.search(r'resumed epoch: 1, iter: 8', log)
    assert what_was_found(problem) == undisturbed


def runs(pid):
    status = Path(f'/proc/{pid}/status')
    # A dead process that nobody has asked for stays as a zombie.
    return status.exists() and not re.search(r'^State:\s*Z', status.read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_a_real_trial_that_hangs_is_ended_with_all_its_processes_and_tried_again(tmp_path, monkeypatch):
    marker = tmp_path / 'hung'
    problem = problem_in(
        tmp_path / 'w',
        search__timeout_s=3600.0,
        search__lrs=[0.05],
        train_dataloader__num_workers=1,
        train_dataloader__dataset__hangs_if_missing=str(marker),
    )

    class Clock:
        """An hour passes at the moment when the first attempt hangs."""

        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic():
            return time.monotonic() + 3601 * marker.exists()

    monkeypatch.setattr(driver, 'time', Clock)
    assert run_search(problem).kind == 'done'
    first, second = read_record(problem.work_dir).attempts
    assert (first.result.outcome, second.result.outcome) == ('failed', 'done')
    assert first.result.message.startswith('search.timeout_s = 3600.0 passed')
    trial = read_claim(problem.trial_dir('grid-00') / 'attempt-1.claim').pid
    loader = int(marker.read_text())
    assert loader != trial  # a process of its own
    assert not runs(trial)
    assert not runs(loader)


@pytest.mark.slow
def test_a_trial_whose_disk_is_full_fails_and_goes_on_when_there_is_room(tmp_path):
    problem = problem_in(tmp_path, search__max_attempts=1, search__lrs=[0.05])
    limit = 'ulimit -f 8; exec "$0" -m mmfixnorm.search.trial "$1"'  # 8 blocks: less than a checkpoint
    full = run_search(problem, command=['bash', '-c', limit, sys.executable])
    assert full.kind == 'stuck'
    assert not (problem.trial_dir('grid-00') / 'result.json').exists()
    (failed,) = read_record(tmp_path).attempts
    assert failed.result.outcome == 'failed'
    assert run_search(problem).kind == 'done'
