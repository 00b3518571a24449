"""Real trainings of a toy model in four processes, for the tests of trials on several nodes."""

import os
import signal
import time
from pathlib import Path

import torch

from mmfixnorm.search.driver import TRIAL_COMMAND, run_search
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from tests.search.executors.conformance import FORK, alive, wait_until

HERE = Path(__file__).parents[1]
KEY = 'grid-00'


def problem_in(work_dir, executor, **options):
    """One training of 8 iterations, each of which takes a while and leaves a line in ``stamps.txt``."""
    options = {
        'search.executor': executor,
        'search.lrs': [0.05],
        'search.keep_weights': 'all',
        'custom_hooks': [{'type': 'StampHook', 'pause_s': 0.5}],
        **{key.replace('__', '.'): value for key, value in options.items()},
    }
    return load_problem(HERE / 'toy_config.py', work_dir=work_dir, cfg_options=options)


def build(problem):
    """The executor of a search, which looks more often than it would."""
    settings = problem.settings
    return settings.executor_settings.build(workers=1, command=TRIAL_COMMAND, timeout_s=settings.timeout_s)


def search(problem, listener=None):
    extra = {'listener': listener} if listener else {}
    return run_search(problem, executor=build(problem), poll_s=0.05, **extra)


def in_four_processes(work_dir, **options):
    """What four processes on this machine find, see :func:`trained`."""
    problem = problem_in(work_dir, dict(type='local', gpus_per_trial=4), **options)
    assert search(problem).kind == 'done'
    return trained(problem)


def disturbed(problem, disturb):
    """Run the search, and do something once all four processes train; return them."""
    processes = []

    def listener(event):
        if event.kind == 'submitted' and not processes:
            processes.extend(wait_for_processes(problem))
            disturb()

    assert search(problem, listener).kind == 'done'
    return processes


def without_a_driver(problem):
    """Kill the driver once all four processes train; return them."""
    driver = FORK.Process(target=lambda: search(problem))
    driver.start()
    processes = wait_for_processes(problem)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    return processes


def assert_the_next_driver_adopts(problem, undisturbed):
    """The processes that a killed driver leaves train on for the next, to the same weights."""
    processes = without_a_driver(problem)
    events = []
    assert search(problem, events.append).kind == 'done'
    assert [e.kind for e in events if e.kind in ('adopted', 'submitted')] == ['adopted']
    assert set(stamps(problem)) == set(processes)
    assert trained(problem) == undisturbed


def trained(problem):
    """The weights at the end, and the validations."""
    checkpoint = torch.load(problem.trial_dir(KEY) / 'run' / 'epoch_4.pth', weights_only=False)
    weights = torch.cat([tensor.flatten() for tensor in checkpoint['state_dict'].values()]).tolist()
    (done,) = [a.result for a in read_record(problem.work_dir).attempts if a.result.outcome == 'done']
    return weights, done.curve


def outcomes(problem):
    return [(a.result.attempt, a.result.outcome) for a in read_record(problem.work_dir).attempts]


def stamps(problem):
    """The processes that have trained, in the order in which they did, an entry for each iteration of each."""
    path = problem.trial_dir(KEY) / 'stamps.txt'
    return [int(line.split()[3]) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_processes(problem, number=4):
    """Wait until so many processes have trained beyond the first checkpoint; return them."""
    wait_until(lambda: (problem.trial_dir(KEY) / 'run' / 'epoch_1.pth').exists(), 120)
    seen = len(stamps(problem))
    wait_until(lambda: len(set(stamps(problem)[seen:])) == number, 60)
    return sorted(set(stamps(problem)[seen:]))


def wait_until_ended(processes, seconds=30):
    wait_until(lambda: not any(map(alive, processes)), seconds)


def assert_one_group_after_the_other(problem, first):
    """No process of the first group has trained after one of the next has begun, and none is alive."""
    seen = stamps(problem)
    begun = next(i for i, pid in enumerate(seen) if pid not in first)
    assert not set(seen[begun:]) & set(first)
    time.sleep(0.1)
    assert not any(map(alive, set(seen)))
