"""Trials on two nodes each, in a real Slurm of three nodes on this machine; the trainings are real."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from mmfixnorm.search.record.study import read_record
from tests.search.executors import real_trials
from tests.search.executors.conformance import wait_until
from tests.search.executors.real_trials import HERE, KEY
from tests.search.executors.test_slurm import REAL, a_real_slurm, job_of, parent_of

pytestmark = [pytest.mark.slow, *(mark for mark in REAL.marks if mark.name == 'skipif')]
SETTINGS = dict(type='slurm', nodes_per_trial=2, gpus_per_trial=4, poll_s=0.2)


@pytest.fixture(scope='module', autouse=True)
def toolbox():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]))
        yield


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, toolbox):
    """What four processes on one node find."""
    return real_trials.in_four_processes(tmp_path_factory.mktemp('local'), custom_hooks=[])


@pytest.fixture
def slurm(monkeypatch):
    with a_real_slurm(NODES='3', GPUS='2', DOWN_S='8', GRACE_S='30') as folder:
        monkeypatch.setenv('SLURM_CONF', str(folder / 'slurm.conf'))
        yield folder


def step_of(process):
    """The slurmstepd above a process: it, its launcher and its node's shell are one below the other."""
    while 'slurmstepd' not in Path(f'/proc/{process}/comm').read_text():
        process = parent_of(process)
    return process


def test_two_nodes_of_two_processes_train_what_four_on_one_node_train(slurm, tmp_path, undisturbed):
    problem = real_trials.problem_in(tmp_path, SETTINGS, custom_hooks=[])
    assert real_trials.search(problem).kind == 'done'
    assert real_trials.trained(problem) == undisturbed
    assert real_trials.outcomes(problem) == [(1, 'done')]


def test_kill_9_of_one_process_ends_those_of_both_nodes_and_costs_one_attempt(slurm, tmp_path, undisturbed):
    problem = real_trials.problem_in(tmp_path, SETTINGS)
    processes = real_trials.disturbed(problem, lambda: os.kill(real_trials.stamps(problem)[-1], signal.SIGKILL))
    assert real_trials.outcomes(problem) == [(1, 'failed'), (2, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed
    assert 'ended as FAILED' in read_record(tmp_path).attempts[0].result.message


def test_a_node_that_disappears_costs_no_attempt_and_its_processes_end(slurm, tmp_path, undisturbed):
    """Its daemons are killed, its processes train on: Slurm starts the job on the other nodes, and they have ended."""
    # Slurm notices within a minute; until then the training must not end.
    slowly = [{'type': 'StampHook', 'pause_s': 20.0, 'until_requeued': True}]
    problem = real_trials.problem_in(tmp_path, SETTINGS, custom_hooks=slowly)

    def lose_the_second_node():
        nodes = subprocess.check_output(
            ['squeue', '-h', '-o', '%N', '-j', job_of(problem.trial_dir(KEY))], text=True
        ).strip()
        last = subprocess.check_output(['scontrol', 'show', 'hostnames', nodes], text=True).split()[-1]
        os.kill(int((slurm / f'slurmd.{last}.pid').read_text()), signal.SIGKILL)
        steps = {step_of(process) for process in set(real_trials.stamps(problem))}
        (lost,) = [step for step in steps if f'SLURMD_NODENAME={last}'.encode() in environment_below(step)]
        os.kill(lost, signal.SIGKILL)

    processes = real_trials.disturbed(problem, lose_the_second_node)
    assert real_trials.outcomes(problem) == [(1, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed


def environment_below(step):
    (shell,) = subprocess.check_output(['pgrep', '-P', str(step)], text=True).split()
    return Path(f'/proc/{shell}/environ').read_bytes().split(b'\0')


#: 4 epochs of 20 iterations.
LONG = dict(train_dataloader__dataset__num=2560, custom_hooks=[{'type': 'StampHook', 'pause_s': 0.2}])


@pytest.fixture(scope='module')
def undisturbed_long(tmp_path_factory, toolbox):
    return real_trials.in_four_processes(tmp_path_factory.mktemp('local'), **{**LONG, 'custom_hooks': []})


@pytest.mark.parametrize('how', ['signal', 'priority'])
def test_notice_is_followed_by_a_checkpoint_and_no_iteration_is_lost(slurm, tmp_path, undisturbed_long, how):
    """The signal that Slurm sends before the time limit, or SIGTERM with a grace time, in the middle of an epoch."""
    problem = real_trials.problem_in(tmp_path, dict(SETTINGS, notice_s=60), **LONG)

    def tell():
        if how == 'signal':
            subprocess.run(['scancel', '--signal=USR1', job_of(problem.trial_dir(KEY))], check=True)
        else:
            take_all_nodes()

    processes = real_trials.disturbed(problem, tell)
    assert real_trials.outcomes(problem) == [(1, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed_long
    assert len(real_trials.stamps(problem)) == 4 * 80
    assert 'told to end: the checkpoint of iteration' in (problem.trial_dir(KEY) / 'log.txt').read_text()


@pytest.mark.skipif('MMFIXNORM_TIME_LIMIT' not in os.environ, reason='4 minutes; set MMFIXNORM_TIME_LIMIT=1')
def test_the_time_limit_of_a_job_is_preceded_by_notice(slurm, tmp_path, undisturbed_long):
    """A training of more than 2 minutes in jobs of 2: Slurm itself sends the signal, 30 to 90 seconds before."""
    slowly = [{'type': 'StampHook', 'pause_s': 1.6}]
    settings = dict(SETTINGS, notice_s=30, time_min=2)
    problem = real_trials.problem_in(tmp_path, settings, **{**LONG, 'custom_hooks': slowly})
    processes = real_trials.disturbed(problem, lambda: None)
    assert real_trials.outcomes(problem) == [(1, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed_long
    assert len(real_trials.stamps(problem)) == 4 * 80
    assert 'told to end: the checkpoint of iteration' in (problem.trial_dir(KEY) / 'log.txt').read_text()


def take_all_nodes():
    options = ['--partition=urgent', '--nodes=3', '--ntasks-per-node=1', '--cpus-per-task=4', '--output=/dev/null']
    subprocess.run(['sbatch', '--wait', *options, '--wrap=true'], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize('how', ['requeue', 'priority'])
def test_a_job_that_slurm_puts_back_continues_the_same_attempt(slurm, tmp_path, undisturbed, how):
    problem = real_trials.problem_in(tmp_path, SETTINGS)

    def put_back():
        if how == 'requeue':
            subprocess.run(['scontrol', 'requeue', job_of(problem.trial_dir(KEY))], check=True)
            return
        take_all_nodes()

    processes = real_trials.disturbed(problem, put_back)
    assert real_trials.outcomes(problem) == [(1, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed


def test_kill_9_of_the_driver_leaves_the_processes_to_the_next(slurm, tmp_path, undisturbed):
    real_trials.assert_the_next_driver_adopts(real_trials.problem_in(tmp_path, SETTINGS), undisturbed)


@pytest.mark.parametrize('how', ['cancel', 'revoke'])
def test_no_process_outlives_its_attempt(slurm, tmp_path, how):
    problem = real_trials.problem_in(tmp_path, SETTINGS, train_cfg__max_epochs=1000)
    processes = real_trials.without_a_driver(problem)
    executor = real_trials.build(problem)
    executor.refresh()
    handle = executor.adopt(problem.trial_dir(KEY), 1)
    if how == 'cancel':
        executor.cancel(handle)
        real_trials.wait_until_ended(processes, 5)
        return
    (problem.trial_dir(KEY) / 'attempt-1.claim').write_text('slurm 0 elsewhere 0\n')
    real_trials.wait_until_ended(processes)
    executor.refresh()
    wait_until(lambda: executor.refresh() or executor.poll(handle))
