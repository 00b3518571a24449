"""How long a search takes with W workers, against how short it could be.

The real driver, planner, record and files; the trials are simulated: an executor that says that a
trial has ended when its time is over. Lengths are ``fraction * 600 s`` times a factor drawn for each
trial, seeded. The clock is real time plus the driver's sleeps, which are jumped over: what the
driver itself takes is in, and so is its polling.

    python benchmarks/driver_makespan.py --workers 1 2 4 16 --seed 0

Prints one JSON line per search with the makespan divided by three bounds:

- ``free``: max(longest chain, work / W); the chain is the longest trial of each stage in a row. It
  forgets that a stage must end before the next begins;
- ``stages``: the sum over stages of max(longest trial, work / W);
- ``best``: the sum over stages of the shortest makespan that any order can reach when the lengths
  are known in advance, by trying all (stages of up to 6 trainings only, else null). 5 equal
  trainings on 4 workers take two waves, however they are ordered.
"""

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from mmfixnorm.search import driver
from mmfixnorm.search.executors.base import Executor, Exit
from mmfixnorm.search.planner import replay
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.trial.folder import SPEC_FILE, TrialResult

T_MAX_S = 600.0
CONFIG = """
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
train_dataloader, val_dataloader, val_cfg, val_evaluator = dict(), dict(), dict(), dict(type='Accuracy')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
model = dict(head=dict(type='Head', alpha=1.0))
search = dict({search})
"""
SEARCHES = {
    'FixNormSearch': 'lr_range=(0.2, 3.2)',
    'LRFitSearch': "type='LRFitSearch', lr_range=(0.2, 3.2), alphas=[1.0, 4.0], budget=4",
    'GridSearch': f"type='GridSearch', lrs={[0.1 * (i + 1) for i in range(16)]}, alphas=[0.5, 1.0, 2.0, 4.0, 8.0]",
}


class JumpingClock:
    """Real time, but a sleep is over at once; or sleeps alone, without real time."""

    def __init__(self, real: bool = True) -> None:
        self._real, self._jumped = real, 0.0

    def monotonic(self) -> float:
        return (time.monotonic() if self._real else 0.0) + self._jumped

    def sleep(self, seconds: float) -> None:
        self._jumped += seconds


def length_of(key: str, fraction: float, *, spread: float, seed: int) -> float:
    """Simulated length of a trial, in seconds."""
    return fraction * T_MAX_S * random.Random(f'{seed} {key}').uniform(1 - spread, 1 + spread)


class SimulatedTrials(Executor):
    """Trials of simulated length; notes when each began and ended."""

    def __init__(self, workers: int, clock: JumpingClock, spread: float, seed: int) -> None:
        self.workers = workers
        self._clock, self._spread, self._seed = clock, spread, seed
        self._ends: dict[str, float] = {}
        self.lengths: dict[str, float] = {}

    def submit(self, trial_dir: Path, attempt: int) -> str:
        spec = json.loads((trial_dir / SPEC_FILE).read_text())
        length = length_of(spec['key'], spec['fraction'], spread=self._spread, seed=self._seed)
        self.lengths[spec['key']] = length
        self._ends[str(trial_dir)] = self._clock.monotonic() + length
        value = 90 - 10 * math.log(spec['lr'] / 1.1) ** 2 - math.log(spec['alpha'] / 4) ** 2
        names = ('key', 'attempt', 'fingerprint')
        TrialResult(**{n: spec[n] for n in names}, outcome='done', value=value).write(trial_dir)
        return str(trial_dir)

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        return None

    def poll(self, handle: str) -> Exit | None:
        return Exit(0) if self._clock.monotonic() >= self._ends[handle] else None

    def cancel(self, handle: str) -> None:
        raise AssertionError('nothing to cancel')

    def describe(self, handle: str) -> str:
        return 'simulated'


def shortest(lengths: Sequence[float], workers: int) -> float | None:
    """The makespan of the best assignment of trials to workers, by trying all."""
    if len(lengths) > 6:
        return None
    best = sum(lengths)
    for places in itertools.product(range(min(workers, len(lengths))), repeat=len(lengths)):
        loads = [0.0] * workers
        for place, length in zip(places, lengths, strict=True):
            loads[place] += length
        best = min(best, max(loads))
    return best


def run(name: str, workers: int, spread: float, seed: int, folder: str | Path, clock: JumpingClock) -> dict[str, Any]:
    """One search; return its makespan and its bounds."""
    config = Path(folder) / f'{name}.py'
    config.write_text(CONFIG.format(search=SEARCHES[name]))
    work_dir = Path(folder) / f'{name}-{workers}-{spread}'
    problem = load_problem(config, work_dir=work_dir, workers=workers)
    executor = SimulatedTrials(workers, clock, spread, seed)
    with mock.patch.object(driver, 'time', clock):
        begin = clock.monotonic()
        driver.run_search(problem, executor=executor)
        makespan = clock.monotonic() - begin
    stages = replay(problem.settings, read_record(work_dir).history()).stages
    lengths = [[executor.lengths[s.key] for s in stage.specs] for stage in stages]
    work = sum(map(sum, lengths))
    best = [of_stage for stage in lengths if (of_stage := shortest(stage, workers)) is not None]
    bounds = {
        'free': max(sum(map(max, lengths)), work / workers),
        'stages': sum(max(max(stage), sum(stage) / workers) for stage in lengths),
        'best': sum(best) if len(best) == len(lengths) else None,
    }
    ratios = {key: None if bound is None else round(makespan / bound, 3) for key, bound in bounds.items()}
    shape = {'search': name, 'stages': [len(stage) for stage in lengths], 'workers': workers, 'spread': spread}
    return {**shape, 'seed': seed, 'makespan_s': round(makespan, 6), 'ratio_to': ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2, 4, 16])
    parser.add_argument('--spread', type=float, nargs='+', default=[0.0, 0.1, 0.5], help='of the lengths, e.g. 0.1')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, spread, workers in itertools.product(SEARCHES, args.spread, args.workers):
            print(json.dumps(run(name, workers, spread, args.seed, folder, JumpingClock())), flush=True)


if __name__ == '__main__':
    main()
