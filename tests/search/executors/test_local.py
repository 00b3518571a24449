"""Several GPUs per trial and several trials per GPU, and a trial in two processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.trial.__main__ import die_with_parent
from tests.search.executors.conformance import FORK, ExecutorConformance, Kind, alive, wait_until

HERE = Path(__file__).parents[1]
TELL = ['/bin/sh', '-c', 'echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS > $0/got; sleep 60']


@pytest.fixture
def gpus_of_trials(tmp_path):
    """Start trials that tell the GPUs they see; end them afterwards."""
    started = []

    def start(executor, *names):
        for name in names:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            started.append((executor, executor.submit(folder, 1)))
        told = [tmp_path / name / 'got' for name in names]
        wait_until(lambda: all(t.exists() and t.read_text() for t in told))
        return [t.read_text().split()[0] for t in told]

    yield start
    for executor, handle in started:
        executor.cancel(handle)


@pytest.mark.parametrize(
    ('gpus_per_trial', 'seen'),
    [
        (1, ['0', '1', '2', '3', '4', '0']),
        (2, ['0,1', '2,3', '0,1', '2,3', '0,1', '2,3']),  # the fifth GPU has no partner
        (5, ['0,1,2,3,4'] * 6),
    ],
)
def test_gpus_are_handed_out_in_turn(gpus_of_trials, gpus_per_trial, seen):
    executor = LocalExecutor(6, TELL, gpus=list('01234'), gpus_per_trial=gpus_per_trial)
    assert gpus_of_trials(executor, *'abcdef') == seen


def test_the_gpus_of_an_adopted_trial_are_not_free(gpus_of_trials, tmp_path):
    first = LocalExecutor(2, TELL, gpus=['0', '1'])
    assert gpus_of_trials(first, 'a') == ['0']
    later = LocalExecutor(2, TELL, gpus=['0', '1'])
    handle = later.adopt(tmp_path / 'a', 1)
    assert gpus_of_trials(later, 'b') == ['1']
    later.cancel(handle)
    assert gpus_of_trials(later, 'c') == ['0']


def test_the_cores_are_shared_out_among_all_processes(tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr('mmfixnorm.search.executors.local._cores', lambda: 16)
    executor = LocalExecutor(2, ['/bin/sh', '-c', 'echo $OMP_NUM_THREADS > $0/got'], gpus_per_trial=4)
    handle = executor.submit(tmp_path, 1)
    wait_until(lambda: executor.poll(handle))
    assert (tmp_path / 'got').read_text() == '2\n'


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    def child():
        die_with_parent()
        (tmp_path / 'child').write_text(str(os.getpid()))
        time.sleep(60)

    def parent():
        FORK.Process(target=child).start()
        time.sleep(60)

    process = FORK.Process(target=parent)
    process.start()
    wait_until(lambda: (tmp_path / 'child').exists() and (tmp_path / 'child').read_text())
    pid = int((tmp_path / 'child').read_text())
    assert alive(pid)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until(lambda: not alive(pid), 10)


@pytest.mark.slow
def test_a_trial_in_two_processes_trains_with_both_and_survives_the_loss_of_one(tmp_path, monkeypatch):
    """On the CPU; one of the two is killed by signal 9 in its 20th iteration, as the other would be."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv('PYTHONPATH', str(HERE))
    options = {
        'search.lrs': [0.4],
        'search.executor': dict(type='local', gpus_per_trial=2),
        'search.max_attempts': 2,
        'model.killed_once': str(tmp_path / 'killed_once'),
        'train_cfg.max_epochs': 6,
        'param_scheduler': None,
    }
    problem = load_problem(HERE / 'toy_config.py', work_dir=tmp_path / 'search', cfg_options=options)
    assert run_search(problem).kind == 'done'
    attempts = [a.result for a in read_record(problem.work_dir).attempts]
    assert [a.outcome for a in attempts] == ['failed', 'done']
    assert [step for step, _ in attempts[1].curve] == [1, 2, 3, 4, 5, 6]
    (trial,) = problem.trials_dir.iterdir()
    newest = torch.load(trial / 'run' / 'epoch_6.pth', weights_only=False)
    assert newest['meta']['iter'] == 6 * 256 // (2 * 32)  # each process has the config's batch size
    assert json.loads((trial / 'result.json').read_text())['attempt'] == 2


def test_a_process_that_only_reuses_the_number_is_not_taken_for_the_trial(tmp_path):
    sleeper = subprocess.Popen(['sleep', '60'])
    claim = tmp_path / 'attempt-1.claim'
    claim.write_text(f'{sleeper.pid} 1 {os.uname().nodename}\n')  # started at boot
    try:
        assert LocalExecutor(1, ['false']).poll(str(claim)) is not None
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize(('number', 'name'), [(9, ' (SIGKILL)'), (34, ' (SIGRTMIN)'), (35, ''), (63, '')])
def test_a_trial_killed_by_any_signal_is_told_with_it(tmp_path, number, name):
    executor = LocalExecutor(1, ['/bin/sh', '-c', f'kill -{number} $$'])
    handle = executor.submit(tmp_path, 1)
    ends = []  # told once
    wait_until(lambda: ends.append(executor.poll(handle)) or ends[-1])
    assert str(ends[-1]) == f'its process was killed by signal {number}{name}'


def test_a_trial_of_another_machine_is_not_guessed_about(tmp_path):
    claim = tmp_path / 'attempt-1.claim'
    claim.write_text('1 1 elsewhere\n')
    with pytest.raises(ConfigError, match="started on 'elsewhere'"):
        LocalExecutor(1, ['false']).poll(str(claim))


def test_cores_and_gpus_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    script = 'echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS > $0/got'
    executor = LocalExecutor(64, ['/bin/sh', '-c', script], gpus=['4', '7'])
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
    handles = [executor.submit(folder, 1) for folder in folders]
    for handle in handles:
        wait_until(lambda h=handle: executor.poll(h) is not None)
    assert [f.joinpath('got').read_text().split() for f in folders] == [
        ['4', '1'],
        ['7', '1'],
        ['4', '1'],
    ]


def test_a_trial_of_a_driver_that_is_gone_is_found_and_can_be_ended(tmp_path):
    handle = LocalExecutor(1, ['/bin/sh', '-c', 'sleep 60']).submit(tmp_path, 1)
    later = LocalExecutor(1, ['false'])
    wait_until(lambda: later.adopt(tmp_path, 1) == handle)
    assert later.poll(handle) is None
    later.cancel(handle)
    assert later.poll(handle).code is None
    assert later.adopt(tmp_path, 2) is None


class TestLocal(ExecutorConformance):
    @pytest.fixture
    def executor(self):
        def make(command, workers=1):
            return LocalExecutor(workers, command, grace_s=1.0)

        return Kind(make, 'local', r'process \d+$', r'killed by signal 9 \(SIGKILL\)')
