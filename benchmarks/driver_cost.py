"""Time that the driver of a search takes per trial, and its memory, with trials that end at once.

A grid search whose trials are done by the executor itself, in the driver's process, by writing
``result.json``. What is left is the driver: plan, config of the trial, files, record, events.

    python benchmarks/driver_cost.py --trials 100 500 2000 --workers 1 16

Prints one JSON line for each search; each is a process of its own. Without torch in that process
(``mmfixnorm/__init__.py``), as in ``tools/fixnorm_search.py``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmfixnorm.search.driver import run_search
from mmfixnorm.search.events import Event
from mmfixnorm.search.executors.base import Executor, Exit
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.trial.folder import SPEC_FILE, TrialResult

CONFIG = 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'


class AtOnce(Executor):
    """Trains nothing: the result is there when the trial is submitted, with a curve of 20 points."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = 0.0

    def submit(self, trial_dir: Path, attempt: int) -> str:
        begin = time.perf_counter()
        spec = json.loads((trial_dir / SPEC_FILE).read_text())
        curve = [[epoch, 90.0 + epoch / 10] for epoch in range(1, 21)]
        value = 90.0 - abs(spec['lr'] - 1.0) - abs(spec['alpha'] - 4.0)
        names = ('key', 'attempt', 'fingerprint')
        TrialResult(**{n: spec[n] for n in names}, outcome='done', value=value, curve=curve).write(trial_dir)
        self.seconds += time.perf_counter() - begin
        return str(trial_dir)

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        return None

    def poll(self, handle: str) -> Exit | None:
        return Exit(0)

    def cancel(self, handle: str) -> None:
        raise AssertionError('nothing to cancel')

    def describe(self, handle: str) -> str:
        return 'here'


def read(event: Event) -> None:
    """Listen as a terminal does, without writing."""
    str(event.data)


def search(trials: int, workers: int, config: str, work_dir: str) -> dict[str, Any]:
    """Run one search; return what it cost."""
    alphas = [0.5, 1.0, 2.0, 4.0, 8.0]
    lrs = [0.01 + 0.01 * i for i in range(trials // len(alphas))]
    block = {'search.type': 'GridSearch', 'search.lrs': lrs, 'search.alphas': alphas}
    given = '{' + "'_delete_': True, 'type': 'GridSearch'" + '}'
    child = Path(work_dir) / 'config.py'
    child.write_text(f'_base_ = [{str(Path(config).absolute())!r}]\nsearch = {given}\n')
    del block['search.type']
    executor = AtOnce(workers)
    begin, cpu = time.perf_counter(), time.process_time()
    problem = load_problem(child, work_dir=Path(work_dir) / 'w', cfg_options=block, workers=workers)
    outcome = run_search(problem, executor=executor, listener=read)
    wall, cpu = time.perf_counter() - begin - executor.seconds, time.process_time() - cpu
    return {
        'trials': len(lrs) * len(alphas),
        'workers': workers,
        'outcome': outcome.kind,
        'wall_s_per_trial': round(wall / trials, 4),
        'cpu_s_per_trial': round(cpu / trials, 4),
        'peak_rss_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        'torch': 'torch' in sys.modules,
        'python': sys.version.split()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--trials', type=int, nargs='+', default=[100, 500, 2000])
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 16])
    parser.add_argument('--config', default=CONFIG, help='its data must be there (default: %(default)s)')
    parser.add_argument('--here', action='store_true', help=argparse.SUPPRESS)  # one search, in this process
    args = parser.parse_args()
    if args.here:
        with tempfile.TemporaryDirectory() as work_dir:
            print(json.dumps(search(args.trials[0], args.workers[0], args.config, work_dir)), flush=True)
        return
    for workers in args.workers:
        for trials in args.trials:
            again = [sys.executable, __file__, '--here', f'--trials={trials}', f'--workers={workers}']
            subprocess.run([*again, f'--config={args.config}'], check=True)


if __name__ == '__main__':
    main()
