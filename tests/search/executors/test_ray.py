"""The Ray executor, against a real Ray of two nodes on this machine."""

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors import ray as executor_ray
from mmfixnorm.search.executors.base import Exit, UnavailableError
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.executors.ray import RayExecutor, RaySettings
from tests.search.executors import ray_local
from tests.search.executors.conformance import (
    SLEEP,
    TINY,
    ExecutorConformance,
    Kind,
    alive,
    attempts_of,
    before,
    state_of,
    text_of,
    wait_until,
)

slow = pytest.mark.slow


@pytest.fixture(scope='module')
def cluster():
    if importlib.util.find_spec('ray') is None:
        pytest.skip('ray is not installed')
    folder = Path(tempfile.mkdtemp(prefix='ray-', dir='/tmp'))
    try:
        with ray_local.network_of_its_own():
            cluster = ray_local.Cluster(folder)
            yield cluster
            cluster.stop()
    except PermissionError as err:
        pytest.skip(str(err))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def far(cluster):
    """The node ``far``, which the test may ruin."""
    yield cluster.far
    cluster.far.stop()
    cluster.add_far()


def make_executor(command, workers=1, *, timeout_s=None, settle_s=3.0, **settings):
    settings = RaySettings(**{'address': ray_local.ADDRESS, 'gpus_per_trial': 0, 'poll_s': 0.1, **settings})
    return RayExecutor(workers, command, settings, timeout_s=timeout_s, settle_s=settle_s)


def run(search, command, *, workers=1, listener=None, **settings):
    extra = {'listener': listener} if listener else {}
    executor = make_executor(command, workers, **settings)
    return run_search(search.problem(workers), executor=executor, poll_s=0.05, **extra)


def actor_of(claim):
    """The process of the actor that claimed an attempt."""
    return int(text_of(claim).split()[2])


# The first attempt goes on and on, until the test lets it end.
STEPS = (
    'date +%s.%N >> $0/starts; test -e $0/attempt-2.claim || '
    'until test -e $0/go; do date +%s.%N >> $0/steps; sleep 0.1; done'
)


@slow
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGSTOP], ids=['killed', 'hung'])
def test_a_node_that_is_lost_in_the_middle_costs_one_attempt(far, make_search, fake_trial, how):
    """Both nodes run a trial. The one on the lost node has ended before its next attempt begins."""
    search, local = make_search(TINY), make_search(TINY, 'local')
    local.run()
    folders = [search.work_dir / 'trials' / key for key in ('r0-k0', 'r0-k1')]
    lost = []

    def lose_a_node(event):
        if event.kind == 'submitted' and event.data['key'] == 'r0-k1' and not lost:
            for folder in folders:
                text_of(folder / 'steps')
            lost.extend(f for f in folders if far.runs(actor_of(f / 'attempt-1.claim')))
            assert len(lost) == 1
            far.signal(how)
            (kept,) = set(folders) - set(lost)
            (kept / 'go').touch()

    command = before(STEPS, fake_trial())
    # Of the node that hangs the end is seen, so this is the longest wait; of the other never, so it is the wait.
    settle_s = 3.0 if how == signal.SIGKILL else 60.0
    assert run(search, command, workers=2, listener=lose_a_node, settle_s=settle_s).kind == 'done'
    assert search.table() == local.table()
    assert sorted(search.trainings()) == sorted(local.trainings())
    attempts = attempts_of(search, lost[0].name)
    assert [a.outcome for a in attempts] == ['failed', 'done']
    assert 'its Ray actor is gone' in attempts[0].message
    last_step, second_start = ((lost[0] / n).read_text().split()[-1] for n in ('steps', 'starts'))
    assert float(last_step) < float(second_start)


@slow
@pytest.mark.parametrize('victim', ['actor', 'claim'])
def test_a_trial_ends_without_its_actor_or_its_claim(cluster, tmp_path, victim):
    """As it must when Ray's memory monitor kills the actor, and when its node was given up by mistake."""
    executor = make_executor(SLEEP)
    handle = executor.submit(tmp_path, 1)
    pid = int(text_of(tmp_path / 'pid'))
    assert state_of(executor, handle) is None
    if victim == 'actor':
        os.kill(actor_of(Path(handle)), signal.SIGKILL)
    else:
        Path(handle).write_text('ray revoked\n')
    wait_until(lambda: not alive(pid), 15)
    wait_until(lambda: state_of(executor, handle))
    assert executor.poll(handle).code == (None if victim == 'actor' else -signal.SIGKILL)


@slow
def test_an_attempt_that_waits_for_a_node_is_told_found_and_cancelled(cluster, tmp_path):
    executor = make_executor(SLEEP, resources={'nowhere': 1})
    handle = executor.submit(tmp_path, 1)
    assert executor.describe(handle).endswith('which waits for a node: none has what it needs')
    assert state_of(executor, handle) is None
    later = make_executor(SLEEP)
    later.refresh()
    assert later.adopt(tmp_path, 1) == handle
    assert later.adopt(tmp_path, 2) is None
    assert state_of(later, handle) is None
    later.cancel(handle)
    wait_until(lambda: state_of(later, handle))
    assert not (tmp_path / 'pid').exists()


@slow
def test_a_trial_gets_its_gpus_on_one_node_and_the_next_waits_for_them(cluster, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    script = 'echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $GREETING > $0/got; until test -e $0/go; do sleep 0.1; done'
    setup = ['export GREETING="good morning"']
    executor = make_executor(['/bin/sh', '-c', script], 2, gpus_per_trial=2, setup=setup)
    folders = [tmp_path / name for name in 'ab']
    for folder in folders:
        folder.mkdir()
    handles = [executor.submit(folder, 1) for folder in folders]
    wait_until(lambda: any((f / 'got').exists() for f in folders))
    first, second = sorted(folders, key=lambda f: not (f / 'got').exists())
    assert text_of(first / 'got') == '0,1 1 good morning\n'
    assert not (second / 'got').exists()
    (first / 'go').touch()
    assert text_of(second / 'got') == '0,1 1 good morning\n'
    (second / 'go').touch()
    for handle in handles:
        (Path(handle).parent / 'result.json').write_text('{"attempt": 1}')
        wait_until(lambda h=handle: state_of(executor, h))
        assert executor.poll(handle) == Exit(0)


@slow
def test_a_hung_trial_is_ended_at_its_time_limit(cluster, tmp_path):
    executor = make_executor(SLEEP, timeout_s=1.0)
    handle = executor.submit(tmp_path, 1)
    pid = int(text_of(tmp_path / 'pid'))
    wait_until(lambda: state_of(executor, handle), 15)
    assert executor.poll(handle) == Exit(None, 'search.timeout_s = 1 passed')
    assert not alive(pid)


@slow
def test_a_second_actor_of_an_attempt_runs_nothing(cluster, tmp_path):
    (tmp_path / 'attempt-1.claim').write_text('7 12345 here\n')
    executor = make_executor(SLEEP)
    handle = executor.submit(tmp_path, 1)
    wait_until(lambda: not executor._is_there(Path(handle)))
    assert Path(handle).read_text() == '7 12345 here\n'
    assert not (tmp_path / 'pid').exists()


@slow
def test_a_cluster_that_does_not_answer_for_a_while_fails_no_trial(cluster, make_search, fake_trial, monkeypatch):
    monkeypatch.setattr(executor_ray, '_CALL_S', 2.0)
    search, local = make_search(TINY), make_search(TINY, 'local')
    local.run()
    gcs = cluster.head.pid_of('gcs_server')
    events, stopped = [], []

    def stop_it_for_a_while(event):
        events.append(event)
        if event.kind == 'submitted' and not stopped:
            stopped.append(os.kill(gcs, signal.SIGSTOP))
        if event.kind == 'warning':
            os.kill(gcs, signal.SIGCONT)

    assert run(search, fake_trial(), listener=stop_it_for_a_while).kind == 'done'
    assert 'does not answer' in next(e.text for e in events if e.kind == 'warning')
    assert search.table() == local.table()
    assert {a.result.attempt for a in search.record().attempts} == {1}


@slow
def test_no_cluster_is_not_an_end(cluster, tmp_path, monkeypatch):
    handle = make_executor(SLEEP).submit(tmp_path, 1)
    pid = int(text_of(tmp_path / 'pid'))
    monkeypatch.setattr(executor_ray, '_FIRST_CALL_S', 10.0)
    other = make_executor(SLEEP, address='127.0.0.1:9')
    with pytest.raises(UnavailableError, match="Ray at '127.0.0.1:9'"):
        other.refresh()
    assert alive(pid)
    monkeypatch.undo()
    make_executor(SLEEP).cancel(handle)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ConfigError, match=r"needs the package ray, .* pip install 'mmfixnorm\[ray\]'"):
        RayExecutor(1, ['true'], RaySettings())


def test_an_attempt_that_ray_runs_is_not_started_on_this_machine_as_well(tmp_path):
    (tmp_path / 'attempt-1.claim').write_text('ray far 12 abcdef\n')
    with pytest.raises(ConfigError, match="started by the executor 'ray', this is 'local'"):
        LocalExecutor(1, ['true']).adopt(tmp_path, 1)


@slow
class TestRay(ExecutorConformance):
    @pytest.fixture
    def executor(self, cluster):
        where = rf'Ray actor r0-k0\.1-\w+ on {os.uname().nodename}, node '
        return Kind(make_executor, 'ray', where, r'killed by signal 9 \(SIGKILL\)')
