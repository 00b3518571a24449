"""Random kill -9 of the driver and of trials: is a result lost, or there twice?

Searches by Algorithm 4 (15 trainings, two at a time) with the fake trainer of the tests. A driver
runs in a process of its own; after a random time it or one of its trials is killed by signal 9; a
killed driver is started again as the same command would. A search that has ended is compared to an
undisturbed one, and the next begins, until there were enough kills, at most ten in each.

    python benchmarks/driver_kills.py --kills 100 --seed 0

Prints one JSON line. ``lost``: trainings without a closed row, or with another value than in the
undisturbed search. ``doubled``: trainings with two closed rows, or that came to their end twice.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.claim import claimed_pid
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.problem import SearchProblem, load_problem
from mmfixnorm.search.record.study import read_record

FAKE = Path(__file__).parents[1] / 'tests' / 'search' / 'fake_trial.py'
FORK = multiprocessing.get_context('fork')  # a driver without the seconds that imports take
WORKERS = 2
_PER_SEARCH = 10  # kills; so that a hundred are spread over ten searches
CONFIG = f"""
_base_ = [{str(FAKE.parents[1] / 'tiny' / 'search.py')!r}]
search = dict(backoff_s=0, max_attempts=1000)
"""


def drive(problem: SearchProblem) -> None:
    """What the same command does, again and again."""
    command = [sys.executable, '-S', str(FAKE), 'brief']
    run_search(problem, executor=LocalExecutor(WORKERS, command), poll_s=0.01)


def running_trials(problem: SearchProblem) -> list[int]:
    """Process ids of the trials that run now."""
    found = []
    for claim in problem.trials_dir.glob('*/attempt-*.claim'):
        pid = claimed_pid(claim) if claim.read_text() else None
        found += [pid] if pid else []
    return sorted(found)


def kill_one(rng: random.Random, driver: ForkProcess, problem: SearchProblem) -> str | None:
    """Kill the driver or one of its trials; return which, or None if it was too late."""
    target = rng.choice(['driver', 'trial'])
    if target == 'driver':
        driver.kill()
        driver.join()
        return target if driver.exitcode == -signal.SIGKILL else None
    while not (pids := running_trials(problem)):
        driver.join(0.01)
        if driver.exitcode is not None:
            return None
    try:
        os.kill(rng.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return None
    return target


def disturbed_search(rng: random.Random, problem: SearchProblem, most: int) -> list[str]:
    """Run a search to its end with kills in between, at most so many; return their targets."""
    killed: list[str] = []
    driver = FORK.Process(target=drive, args=(problem,))
    driver.start()
    while True:
        driver.join(rng.uniform(0, 0.5) if len(killed) < most else None)
        if driver.exitcode is None:
            target = kill_one(rng, driver, problem)
            killed += [target] if target else []
        if driver.exitcode == 0:
            return killed
        if driver.exitcode is not None:  # what may end it otherwise is a fault, seen by who counts
            if driver.exitcode != -signal.SIGKILL:
                raise RuntimeError(f'the driver ended with status {driver.exitcode}')
            driver = FORK.Process(target=drive, args=(problem,))
            driver.start()


def count_faults(problem: SearchProblem, expected: Mapping[str, float | None]) -> tuple[int, int]:
    """Trainings that are lost and doubled, by comparison to ``{key: value}``."""
    closed = read_record(problem.work_dir).finished()
    ledger = Counter((problem.work_dir / 'ledger.txt').read_text().split())
    values = {c.key: c.value for c in closed}
    rows = Counter(c.key for c in closed)
    lost = [key for key in expected if values.get(key) != expected[key]]
    doubled = {key for counted in (rows, ledger) for key, n in counted.items() if n > 1}
    return len(lost), len(doubled)


def kill_searches(kills: int, seed: int, folder: str | Path) -> dict[str, Any]:
    """Run searches until there were so many kills; return what happened."""
    rng, folder = random.Random(seed), Path(folder)
    (folder / 'config.py').write_text(CONFIG)
    problem = load_problem(folder / 'config.py', work_dir=folder / 'undisturbed')
    drive(problem)
    expected = {c.key: c.value for c in read_record(problem.work_dir).finished()}
    targets: list[str] = []
    begin, lost, doubled, searches = time.monotonic(), 0, 0, 0
    while len(targets) < kills:
        problem = load_problem(folder / 'config.py', work_dir=folder / f'search-{searches}')
        targets += disturbed_search(rng, problem, min(_PER_SEARCH, kills - len(targets)))
        faults = count_faults(problem, expected)
        lost, doubled, searches = lost + faults[0], doubled + faults[1], searches + 1
    return {
        'seed': seed,
        'kills': Counter(targets),
        'searches': searches,
        'trainings': searches * len(expected),
        'lost': lost,
        'doubled': doubled,
        'seconds': round(time.monotonic() - begin, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counted = kill_searches(args.kills, args.seed, folder)
    print(json.dumps(counted))
    return 1 if counted['lost'] or counted['doubled'] else 0


if __name__ == '__main__':
    sys.exit(main())
