#!/usr/bin/env python
"""How long ``status`` and ``report`` take on a large study, and how big the report is.

Makes the record of a random search with ``--trials`` trainings, each with 20 validations and a log of
6 kB, and prints one line of JSON with times in seconds, the shortest of three. ``command`` is the whole
command in a process of its own, ``work`` what it does after its imports, in this process. ``wall`` depends on what
else the machine does, ``cpu`` much less.

    python benchmarks/large_study.py --trials 2000

With ``--workers`` the driver runs the whole search first, so many trainings at a time, over fake ones that last 1 to
20 rounds of polls: its seconds for each trial, without what the fake trainings take, and its memory. With
``--browser`` the report is opened in a headless Chromium.

    python benchmarks/large_study.py --trials 10000 --workers 1000 --browser
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console

from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.base import Executor, Exit
from mmfixnorm.search.methods.base import Spec
from mmfixnorm.search.planner import Run, plan
from mmfixnorm.search.problem import SearchProblem, load_problem
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import STUDY_FILE, open_record, read_record
from mmfixnorm.search.report import write_report
from mmfixnorm.search.terminal.console import print_state
from mmfixnorm.search.trial.folder import LOG_FILE, SPEC_FILE, TrialResult

EPOCHS = 20
CONFIG = """
_base_ = [{base!r}]
train_cfg = dict(max_epochs={epochs})
search = dict(type='RandomSearch', lr_range=(0.01, 10.0), alpha_range=(0.5, 16.0), num_trials={trials})
"""
LOG_LINE = '11/23 00:59:58 - mmengine - INFO - Epoch(train) [{0}][40/47] lr: 1.0e-02 eta: 0:00:01 loss: <{1:.4f}>\n'
BASE = Path(__file__).parents[1] / 'tests/tiny/search.py'
TOOL = Path(__file__).parents[1] / 'tools' / 'fixnorm_search.py'


def make_study(folder: Path, trials: int, *, logs: bool = True) -> SearchProblem:
    """Make a search whose trials are all over; one of 20 has diverged.

    Optuna writes the first row, and what it wrote is copied for the others: through Optuna a row takes 50 ms.
    """
    config = folder / 'config.py'
    config.write_text(CONFIG.format(base=str(BASE), epochs=EPOCHS, trials=trials))
    problem = load_problem(config, work_dir=folder / 'search')
    problem.work_dir.mkdir()
    record = open_record(problem)
    step = plan(problem.settings, [])
    assert isinstance(step, Run)
    specs = step.specs
    rng = random.Random(0)
    first = record.add(specs[0], make_result(specs[0], record.fingerprint, rng), cost=1.0)
    rows = []
    for i, spec in enumerate(specs[1:], start=1):
        result = make_result(spec, record.fingerprint, rng)
        ended = first.ended + timedelta(seconds=3 * i)
        rows.append({'spec': spec.to_dict(), 'result': asdict(result), 'cost': 1.0, 'ended': ended.isoformat()})
    copy_rows(problem.work_dir / STUDY_FILE, rows)
    for spec in specs if logs else ():
        problem.trial_dir(spec.key).mkdir(parents=True)
        lines = [LOG_LINE.format(epoch, rng.random()) for epoch in range(3 * EPOCHS)]
        (problem.trial_dir(spec.key) / LOG_FILE).write_text(''.join(lines))
    return problem


def make_result(spec: Spec, fingerprint: str, rng: random.Random) -> TrialResult:
    """A training that ended, with its curve."""
    diverged = rng.random() < 0.05
    top = 90 - rng.random() * 10
    curve = [[epoch, round(top - 30 / epoch, 4)] for epoch in range(1, EPOCHS + 1)]
    return TrialResult(
        key=spec.key,
        attempt=1,
        fingerprint=fingerprint,
        outcome='diverged' if diverged else 'done',
        value=None if diverged else curve[-1][1],
        message='the loss is nan at iteration 40' if diverged else '',
        built_lrs=[spec.point.lr],
        curve=[] if diverged else curve,
        length=EPOCHS,
        seconds=3.0,
    )


def copy_rows(path: Path, rows: Sequence[dict]) -> None:
    """Write rows into the study, as its first one stands there."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        (study,) = db.execute('SELECT study_id FROM trials WHERE trial_id = 1').fetchone()
        ranges = dict(db.execute('SELECT param_name, distribution_json FROM trial_params WHERE trial_id = 1'))
        for number, row in enumerate(rows, start=1):
            spec, result, trial = row['spec'], row['result'], number + 1
            state = 'COMPLETE' if result['outcome'] == 'done' else 'FAIL'
            times = (datetime.now().isoformat(sep=' '),) * 2
            db.execute('INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?)', (trial, number, study, state, *times))
            attrs = {'key': spec['key'], 'attempt': 1, 'outcome': result['outcome'], 'cost': row['cost'], 'row': row}
            attrs['fingerprint'] = result['fingerprint']
            insert = 'INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)'
            db.executemany(insert, [(trial, key, json.dumps(value)) for key, value in attrs.items()])
            insert = (
                'INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)'
            )
            db.executemany(insert, [(trial, name, spec[name], text) for name, text in ranges.items()])
            if result['value'] is not None:
                insert = "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')"
                db.execute(insert, (trial, result['value']))


class InRounds(Executor):
    """Trains nothing: the result is written when a training has been asked for 1 to 20 times."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = 0.0
        self._rng = random.Random(1)
        self._left: dict[str, int] = {}

    def submit(self, trial_dir: Path, attempt: int) -> str:
        self._left[str(trial_dir)] = self._rng.randint(1, 20)
        return str(trial_dir)

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        return None

    def poll(self, handle: str) -> Exit | None:
        self._left[handle] -= 1
        if self._left[handle]:
            return None
        begin = time.perf_counter()
        spec = json.loads(Path(handle, SPEC_FILE).read_text())
        make_result(Spec.from_dict(spec), spec['fingerprint'], self._rng).write(Path(handle))
        lines = [LOG_LINE.format(epoch, self._rng.random()) for epoch in range(3 * EPOCHS)]
        Path(handle, LOG_FILE).write_text(''.join(lines))
        self.seconds += time.perf_counter() - begin
        return Exit(0)

    def cancel(self, handle: str) -> None:
        raise AssertionError('nothing to cancel')

    def describe(self, handle: str) -> str:
        return 'here'


def drive(folder: Path, trials: int, workers: int) -> tuple[SearchProblem, dict[str, object]]:
    """Run a search; return it, and what its driver took."""
    config = folder / 'config.py'
    config.write_text(CONFIG.format(base=str(BASE), epochs=EPOCHS, trials=trials))
    problem = load_problem(config, work_dir=folder / 'search', workers=workers)
    executor = InRounds(workers)
    begin, cpu = time.perf_counter(), time.process_time()
    outcome = run_search(problem, executor=executor, poll_s=0.0)
    wall, cpu = time.perf_counter() - begin - executor.seconds, time.process_time() - cpu
    took: dict[str, object] = {
        'workers': workers,
        'outcome': outcome.kind,
        'wall_s_per_trial': round(wall / trials, 4),
        'cpu_s_per_trial': round(cpu / trials, 4),
        'driver_peak_rss_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    return problem, took


def open_in_browser(problem: SearchProblem) -> None:
    """Open the report in a headless Chromium, until its scripts are done."""
    names = ('chromium', 'chromium-browser', 'google-chrome')
    chromium = next((path for path in map(shutil.which, names) if path), None)
    if chromium is None:
        raise SystemExit('--browser: needs Chromium: apt-get install chromium')
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--host-resolver-rules=MAP * ~NOTFOUND', '--dump-dom']
    with tempfile.TemporaryDirectory() as profile:
        page = (problem.work_dir / 'report.html').as_uri()
        command = [chromium, *options, f'--user-data-dir={profile}', page]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def status(problem: SearchProblem) -> str:
    """What ``status`` does after its imports."""
    problem = load_problem(problem.filename, work_dir=problem.work_dir)
    text = io.StringIO()
    print_state(problem, search_state(problem, read_record(problem.work_dir)), Console(file=text, width=120))
    return text.getvalue()


def report(problem: SearchProblem) -> Path:
    """What ``report`` does after its imports."""
    problem = load_problem(problem.filename, work_dir=problem.work_dir)
    return write_report(problem, read_record(problem.work_dir)).report


def command(problem: SearchProblem, action: str) -> None:
    """The whole command."""
    argv = [sys.executable, str(TOOL), action, problem.filename, '--work-dir', str(problem.work_dir)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def seconds(call: Callable, *args: object, repeats: int = 3) -> dict[str, float]:
    """The shortest time of some calls, by the clock and of a processor; child processes count."""
    wall, cpu = [], []
    for _ in range(repeats):
        begin, begin_cpu = time.perf_counter(), sum(os.times()[:4])
        call(*args)
        wall.append(time.perf_counter() - begin)
        cpu.append(sum(os.times()[:4]) - begin_cpu)
    return {'wall': round(min(wall), 3), 'cpu': round(min(cpu), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--trials', type=int, default=2000)
    parser.add_argument('--workers', type=int, help='have a driver run the search, so many trainings at a time')
    parser.add_argument('--browser', action='store_true', help='open the report in a headless Chromium')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, object] = {'trials': args.trials}
        if args.workers:
            problem, took = drive(Path(folder), args.trials, args.workers)
            measured |= took
            print(json.dumps(took), file=sys.stderr, flush=True)
        else:
            problem = make_study(Path(folder), args.trials)
        measured['record_mb'] = round((problem.work_dir / STUDY_FILE).stat().st_size / 1e6, 2)
        measured['read_record'] = seconds(read_record, problem.work_dir)
        for action, work in {'status': status, 'report': report}.items():
            measured[f'{action}_work'] = seconds(work, problem)
            measured[f'{action}_command'] = seconds(command, problem, action)
        if args.browser:
            measured['browser'] = seconds(open_in_browser, problem)
        measured['report_mb'] = round((problem.work_dir / 'report.html').stat().st_size / 1e6, 2)
    print(json.dumps(measured))


if __name__ == '__main__':
    main()
