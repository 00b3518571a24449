"""A search that one can watch: running trials, time left, lines of text or JSON, a live table on a terminal."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmfixnorm.cli.search import main
from mmfixnorm.search.executors.claim import start_time
from mmfixnorm.search.terminal.follow import take_snapshot
from mmfixnorm.search.terminal.running import RunningTrial, time_left
from mmfixnorm.search.trial.folder import TrainingProgress, read_progress, write_progress

ROOT = Path(__file__).parents[3]


def make_running(search, key, attempt, since):
    """Write the folder of a trial that runs: the claim of this process, a third of the training, its loss."""
    folder = search.work_dir / 'trials' / key
    folder.mkdir(parents=True, exist_ok=True)
    claim = folder / f'attempt-{attempt}.claim'
    claim.write_text(f'{os.getpid()} {start_time(os.getpid())} {os.uname().nodename} 0\n')
    os.utime(claim, (since, since))
    write_progress(folder, TrainingProgress(10, 30, 0.75), attempt=attempt)


@pytest.fixture
def begun(make_search, small):
    """A search of which nothing has finished; its first trial has run for 20 seconds and is at a third."""
    search = make_search(small + ', max_attempts=1')
    search.run('fail-r0-k0')
    make_running(search, 'r0-k0', 2, time.time() - 20)
    return search


def test_the_first_estimate_comes_within_the_first_trial(begun):
    snapshot = take_snapshot(begun.problem())
    # 20 s for a third of 0.2 T_max; what is left of the 3.4 T_max that are planned at that speed.
    speed = 20 / (0.2 / 3)
    assert snapshot.seconds_left == pytest.approx((3.4 - 0.2 / 3) * speed, rel=0.05)


def test_finished_trials_set_the_speed_and_running_ones_share_what_is_left(make_search, small):
    search = make_search(small)
    search.run()
    problem, snapshot = search.problem(), take_snapshot(search.problem())
    state = snapshot.state._replace(
        cost=1.0, planned_cost=5.0, finished_seconds=100.0, replayed=snapshot.state.replayed.__class__(())
    )
    spec = snapshot.state.replayed.stages[-1].specs[0]
    assert problem.cost(spec.fraction) == 1
    half = RunningTrial(spec, 1, '', 0.0, 0, 10, None, TrainingProgress(50, 100, 1.0), False)
    assert time_left(problem, state, [half, half], now=0.0) == pytest.approx((5 - 1 - 2 * 0.5) * 100 / 2)
    assert time_left(problem, state, [], now=0.0) == pytest.approx(4 * 100)
    assert snapshot.seconds_left == 0.0  # it is over


def test_status_shows_what_runs_with_its_loss_and_the_time_left(begun, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    assert main(['status', begun.config, '--work-dir', str(begun.work_dir)]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if '33%' in line)
    assert [cell.strip() for cell in row.strip('│').split('│')][:6] == [
        'r0-k0',
        '1.7',
        '1',
        '0.667 of 2',
        '33%',
        '0.75',
    ]
    assert 'time left: about ' in out


def test_progress_of_an_earlier_attempt_is_not_that_of_this_one(tmp_path):
    write_progress(tmp_path, TrainingProgress(7, 10, None), attempt=1)
    assert read_progress(tmp_path, attempt=1) == TrainingProgress(7, 10, None)
    assert read_progress(tmp_path, attempt=2) is None
    (tmp_path / 'progress.json').write_text('{"iter')
    assert read_progress(tmp_path, attempt=1) is None


@pytest.mark.parametrize('log_format', ['text', 'json'])
def test_without_a_terminal_there_is_one_line_for_each_event(make_search, small, fake_trial, capsys, log_format):
    search = make_search(small)
    arguments = ['run', search.config, '--work-dir', str(search.work_dir), '--log-format', log_format]
    assert main(arguments, trial_command=fake_trial('plain')) == 0
    lines = capsys.readouterr().out.splitlines()
    if log_format == 'json':
        recorded = [e for e in map(json.loads, lines) if e['event'] == 'recorded']
        assert [(e['key'], e['lr']) for e in recorded][:2] == [('r0-k0', 1.7), ('r0-k1', 3.2)]
    else:
        recorded = [line for line in lines if ': done, accuracy/top1' in line]
        assert recorded[0].split()[1:3] == ['1/5', 'r0-k0']
        assert not any(line.startswith('{') for line in lines)
    assert len(recorded) == 5


@pytest.mark.skipif(not hasattr(pty, 'openpty'), reason='needs a pseudo-terminal')
def test_on_a_terminal_a_live_table_is_drawn_under_the_lines(make_search, small, fake_trial):
    search = make_search(small)
    code = (
        'import sys; from mmfixnorm.cli.search import main; '
        'sys.exit(main(sys.argv[1:4] + ["--workers", "1"], trial_command=sys.argv[4:]))'
    )
    command = [sys.executable, '-c', code, 'run', search.config, f'--work-dir={search.work_dir}', *fake_trial('slow')]
    ours, theirs = pty.openpty()
    env = {**os.environ, 'COLUMNS': '140', 'LINES': '50', 'TERM': 'xterm', 'PYTHONPATH': str(ROOT)}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, close_fds=True) as run:
        os.close(theirs)
        shown = b''
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    text = shown.decode()
    assert run.returncode == 0, text
    for words in ('r0-k0 started: process', 'running', 'time left: ', '1 of 2', 'winner: lr 1.7, alpha 4'):
        assert words in text, words
