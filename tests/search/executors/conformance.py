"""What every executor must pass, and what the tests of executors share.

A test module derives a class from :class:`ExecutorConformance` and gives it the fixture ``executor``; a new executor
needs nothing more.
"""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.base import Executor

FORK = multiprocessing.get_context('fork')
#: One round of two learning rates.
TINY = 'lr_range=(0.2, 3.2), num_splits=2, num_rounds=1, schedule_fractions=[1.0], alphas=[1.0]'
SLEEP = ['/bin/sh', '-c', 'echo $$ > $0/pid; exec sleep 60']


def before(script, command):
    """Return a trial that runs a script of shell first, which has its folder as $0."""
    words = ' '.join(f"'{word}'" for word in command)
    return ['/bin/sh', '-c', f'{script}; exec {words} "$0"']


def wait_until(condition, seconds=60):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def text_of(path):
    """Wait for a file that ends with its first line; return its text."""
    wait_until(lambda: path.exists() and path.read_text().endswith('\n'))
    return path.read_text()


def state_of(executor, handle):
    executor.refresh()
    return executor.poll(handle)


def alive(pid):
    """Return whether a process runs; one that has ended and is not reaped yet does not."""
    stat = Path(f'/proc/{pid}/stat')
    return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] != 'Z'


def run(search, executor, *, workers=1, listener=None):
    """Run a search with an executor that is built already."""
    extra = {'listener': listener} if listener else {}
    return run_search(search.problem(workers), executor=executor, poll_s=0.05, **extra)


def attempts_of(search, key):
    return [a.result for a in search.record().attempts if a.spec.key == key]


class Kind(NamedTuple):
    """An executor under test.

    Attributes:
        make: Builds it for a command and a number of workers, with a wait for late results of a few seconds at most.
        owner: Its name in ``search.executor``.
        where: Regular expression for what it says of a claimed attempt.
        killed: Regular expression for what it says of a trial that was killed by signal 9.
    """

    make: Callable[..., Executor]
    owner: str
    where: str
    killed: str


class ExecutorConformance:
    """The contract of :class:`mmfixnorm.search.executors.base.Executor`, as a driver relies on it."""

    @pytest.fixture
    def executor(self) -> Kind:
        raise NotImplementedError('a subclass gives its executor')

    def test_a_search_ends_with_the_same_table_as_on_this_machine(self, executor, make_search, small, fake_trial):
        search, local = make_search(small), make_search(small, 'local')
        local.run()
        assert run(search, executor.make(fake_trial(), 2), workers=2).kind == 'done'
        assert search.table() == local.table()
        assert sorted(search.trainings()) == sorted(local.trainings())

    def test_a_trial_of_a_killed_driver_is_adopted_by_the_next(self, executor, make_search, fake_trial):
        search, local = make_search(TINY), make_search(TINY, 'local')
        local.run()
        command = before('case $0 in *r0-k0) sleep 3;; esac', fake_trial())
        driver = FORK.Process(target=lambda: run(search, executor.make(command)))
        driver.start()
        claim = search.work_dir / 'trials' / 'r0-k0' / 'attempt-1.claim'
        wait_until(lambda: claim.exists() and claim.read_text())
        os.kill(driver.pid, signal.SIGKILL)
        driver.join()
        events = []
        assert run(search, executor.make(command), listener=events.append).kind == 'done'
        (adopted,) = [e.text for e in events if e.kind == 'adopted']
        assert adopted.startswith('r0-k0 found, attempt 1: ')
        assert re.search(executor.where, adopted)
        assert search.table() == local.table()
        assert sorted(search.trainings()) == sorted(local.trainings())

    def test_kill_9_of_a_trial_costs_one_attempt(self, executor, make_search, fake_trial):
        search, local = make_search(TINY), make_search(TINY, 'local')
        local.run()
        assert run(search, executor.make(fake_trial('kill-once'), 2), workers=2).kind == 'done'
        assert search.table() == local.table()
        failed, done = attempts_of(search, 'r0-k1')
        assert (failed.outcome, done.outcome) == ('failed', 'done')
        assert re.search(executor.killed, failed.message)

    def test_cancel_ends_the_process_and_waits_for_it(self, executor, tmp_path):
        it = executor.make(SLEEP)
        it.refresh()
        handle = it.submit(tmp_path, 1)
        wait_until(lambda: (tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text())
        pid = int((tmp_path / 'pid').read_text())
        assert alive(pid)
        it.cancel(handle)
        assert not alive(pid)
        it.cancel(handle)  # no error if it has ended

    def test_an_attempt_is_run_once_however_often_it_is_submitted(self, executor, tmp_path):
        script = 'echo ran >> $0/count; sleep 1'
        both = [executor.make(['/bin/sh', '-c', script]) for _ in range(2)]
        handles = []
        for it in both:
            it.refresh()
            handles.append(it.submit(tmp_path, 1))
        assert handles[0] == handles[1]
        for it, handle in zip(both, handles):
            wait_until(lambda it=it, handle=handle: state_of(it, handle))
        assert (tmp_path / 'count').read_text() == 'ran\n'

    def test_an_attempt_that_nobody_has_started_is_not_adopted(self, executor, tmp_path):
        it = executor.make(['true'])
        it.refresh()
        assert it.adopt(tmp_path, 1) is None

    def test_an_attempt_of_another_executor_is_refused(self, executor, tmp_path):
        other = 'manual' if executor.owner != 'manual' else 'slurm'
        (tmp_path / 'attempt-1.claim').write_text(f'{other} node1\n')
        with pytest.raises(ConfigError, match=f"started by the executor '{other}', this is '{executor.owner}'"):
            executor.make(['true']).adopt(tmp_path, 1)
