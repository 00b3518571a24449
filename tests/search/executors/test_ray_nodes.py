"""Trials on two nodes each, in a real Ray of three nodes on this machine; the trainings are real."""

import contextlib
import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from mmfixnorm.search.executors.base import Exit
from mmfixnorm.search.executors.ray import RayClient, RayExecutor, RaySettings
from mmfixnorm.search.record.study import read_record
from tests.search.executors import ray_local, real_trials
from tests.search.executors.conformance import SLEEP, alive, state_of, text_of, wait_until
from tests.search.executors.real_trials import HERE, KEY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason='ray is not installed'),
]
SETTINGS = dict(type='ray', address=ray_local.ADDRESS, nodes_per_trial=2, gpus_per_trial=4, poll_s=0.2)


@pytest.fixture(scope='module', autouse=True)
def toolbox():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]))
        patch.setenv('GLOO_SOCKET_IFNAME', 'lo')
        yield


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, toolbox):
    """What four processes on one node find."""
    return real_trials.in_four_processes(tmp_path_factory.mktemp('local'), custom_hooks=[])


@pytest.fixture(scope='module')
def cluster(undisturbed):
    """A head and two other nodes, each with a CPU and two GPUs as far as Ray knows."""
    folder = Path(tempfile.mkdtemp(prefix='ray-', dir='/tmp'))
    try:
        with ray_local.network_of_its_own(), contextlib.ExitStack() as stack:
            cluster = ray_local.Cluster(folder, head_gpus=2)
            stack.callback(cluster.stop)
            stack.callback(cluster.far.stop)
            cluster.add_far()
            yield cluster
    except PermissionError as err:
        pytest.skip(str(err))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def far(cluster):
    """The newest node, which the test may ruin."""
    yield cluster.far
    cluster.far.stop()
    cluster.add_far()


@pytest.fixture(autouse=True)
def nothing_is_left(cluster):
    """After each test no actor and no placement group is left, and Ray has all its places."""
    yield
    wait_until(lambda: not ask_ray('look'), 30)
    wait_until(lambda: not ask_ray('placement_groups'), 30)


def ask_ray(do):
    client = RayClient(ray_local.ADDRESS)
    try:
        return client.ask(do)
    finally:
        client.close()


def make_executor(command, *, timeout_s=None, settle_s=5.0, **settings):
    known = {key: value for key, value in SETTINGS.items() if key != 'type'}
    settings = RaySettings(**{**known, 'gpus_per_trial': 0, 'poll_s': 0.1, **settings})
    return RayExecutor(1, command, settings, timeout_s=timeout_s, settle_s=settle_s)


def actor_of(problem):
    return int(text_of(problem.trial_dir(KEY) / 'attempt-1.claim').split()[2])


def test_two_nodes_of_two_processes_train_what_four_on_one_node_train(cluster, tmp_path, undisturbed):
    problem = real_trials.problem_in(tmp_path, SETTINGS, custom_hooks=[])
    assert real_trials.search(problem).kind == 'done'
    assert real_trials.trained(problem) == undisturbed
    assert real_trials.outcomes(problem) == [(1, 'done')]


@pytest.mark.parametrize('victim', ['process', 'actor'])
def test_kill_9_of_a_part_ends_the_whole_and_costs_one_attempt(cluster, tmp_path, undisturbed, victim):
    problem = real_trials.problem_in(tmp_path, SETTINGS)

    def kill():
        os.kill(real_trials.stamps(problem)[-1] if victim == 'process' else actor_of(problem), signal.SIGKILL)

    processes = real_trials.disturbed(problem, kill)
    assert real_trials.outcomes(problem) == [(1, 'failed'), (2, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed


def test_a_node_that_is_lost_costs_one_attempt_and_the_rest_of_the_trial_ends(far, tmp_path, undisturbed):
    problem = real_trials.problem_in(tmp_path, SETTINGS)
    lost = []

    def lose_a_node():
        raylet = far.pid_of('raylet')
        on_it = {p.pid for p in psutil.Process(raylet).children(recursive=True)}
        lost.append(bool(on_it & set(real_trials.stamps(problem))))
        far.signal(signal.SIGKILL)

    processes = real_trials.disturbed(problem, lose_a_node)
    if not lost[0]:
        pytest.skip('the trial was on the other two nodes')
    assert real_trials.outcomes(problem) == [(1, 'failed'), (2, 'done')]
    real_trials.assert_one_group_after_the_other(problem, processes)
    assert real_trials.trained(problem) == undisturbed


def test_kill_9_of_the_driver_leaves_the_processes_to_the_next(cluster, tmp_path, undisturbed):
    real_trials.assert_the_next_driver_adopts(real_trials.problem_in(tmp_path, SETTINGS), undisturbed)


def test_without_a_driver_a_trial_ends_and_gives_everything_back(cluster, tmp_path):
    problem = real_trials.problem_in(tmp_path, SETTINGS)
    processes = real_trials.without_a_driver(problem)
    wait_until(lambda: 'ended 0' in (problem.trial_dir(KEY) / 'attempt-1.claim').read_text(), 60)
    real_trials.wait_until_ended(processes)
    assert not read_record(tmp_path).attempts


@pytest.mark.parametrize('how', ['cancel', 'revoke', 'time limit'])
def test_no_process_outlives_its_attempt(cluster, tmp_path, how):
    script = ['/bin/sh', '-c', 'echo $$ > $0/pid-$PET_NODE_RANK; exec sleep 60']
    executor = make_executor(script, timeout_s=2.0 if how == 'time limit' else None)
    handle = executor.submit(tmp_path, 1)
    pids = [int(text_of(tmp_path / f'pid-{rank}')) for rank in range(2)]
    assert all(map(alive, pids)) or how == 'time limit'
    if how == 'cancel':
        executor.cancel(handle)
        assert not any(map(alive, pids))
        return
    if how == 'revoke':
        Path(handle).write_text('ray revoked\n')
    real_trials.wait_until_ended(pids)
    wait_until(lambda: state_of(executor, handle))
    if how == 'time limit':
        assert executor.poll(handle) == Exit(None, 'search.timeout_s = 2 passed')


def test_a_trial_gets_all_its_nodes_or_waits_for_them(cluster, tmp_path):
    executor = make_executor(SLEEP, nodes_per_trial=4)
    handle = executor.submit(tmp_path, 1)
    assert executor.describe(handle).endswith('which waits for a node: none has what it needs')
    assert state_of(executor, handle) is None
    executor.cancel(handle)
    wait_until(lambda: state_of(executor, handle))
    assert not (tmp_path / 'pid').exists()
