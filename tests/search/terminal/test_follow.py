"""Watching a search from outside."""

import hashlib
import io
import json
import os
import threading
from pathlib import Path

import pytest
from rich.console import Console

from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.terminal.follow import draw, follow, take_snapshot
from mmfixnorm.search.terminal.running import running_trials


def contents(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture
def halfway(make_search, small):
    """A search that has stopped after its first trial, with one more that runs: this process, at epoch 3."""
    search = make_search(small + ', max_attempts=1')
    search.run('fail-r0-k1')
    folder = search.problem().trial_dir('r0-k1')
    started = Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]
    (folder / 'attempt-2.claim').write_text(f'{os.getpid()} {started} {os.uname().nodename} 0\n')
    (folder / 'curve.jsonl').write_text('[1, 50.0]\n[2, 61.5]\n[3, 7')
    return search


def test_a_running_trial_is_seen_in_its_folder(halfway):
    problem, record = halfway.problem(), halfway.record()
    (trial,) = running_trials(problem, record, search_state(problem, record).replayed)
    assert (trial.spec.key, trial.attempt, trial.ended) == ('r0-k1', 2, False)
    assert (trial.step, trial.length, trial.value) == (2, 2, 61.5)  # 0.2 of 10 epochs
    assert trial.where == f'process {os.getpid()} on {os.uname().nodename}'


def test_the_table_shows_cost_what_runs_and_the_best(halfway):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(draw(halfway.problem(), take_snapshot(halfway.problem()), height=40))
    text = console.file.getvalue()
    assert '1 of 2' in text
    assert '61.5' in text
    assert 'no stage has finished yet (0.2 of 3.4 T_max' in text


def test_looking_changes_nothing_in_the_folder(halfway):
    before = contents(halfway.work_dir)
    seen = take_snapshot(halfway.problem())
    assert contents(halfway.work_dir) == before
    assert not seen.over


@pytest.mark.parametrize('terminal', [True, False], ids=['terminal', 'lines'])
def test_it_follows_a_search_that_another_thread_drives_and_ends_with_it(make_search, small, terminal):
    """The record is written while it is read, with as little time as possible between two looks."""
    search = make_search(small)
    problem = search.problem()
    started = threading.Event()
    outcomes = []

    def drive():
        outcomes.append(search.run(workers=2, listener=lambda event: started.set() if event.kind == 'opened' else None))

    driver = threading.Thread(target=drive)
    driver.start()
    assert started.wait(60)
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal, color_system=None)
    seen = follow(problem, console, interval_s=0.001, as_json=not terminal)
    driver.join(60)
    assert outcomes[0].kind == 'done'
    assert seen.over
    text = console.file.getvalue()
    assert 'winner: lr 1.7, alpha 4: accuracy/top1 88' in text
    if not terminal:
        events = [json.loads(line) for line in text.splitlines()]
        recorded = [e['key'] for e in events if e['event'] == 'recorded']
        assert sorted(recorded) == sorted(search.trainings())
        assert events[-1]['event'] == 'finished'
