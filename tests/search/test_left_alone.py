"""A search whose driver, terminal or reader has gone: nothing is lost, and no other search takes what it left."""

import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmfixnorm.cli._parser import CommandParser, run_command
from mmfixnorm.cli.search import main
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors.claim import claimed_pid, start_time
from mmfixnorm.search.record.study import open_record, read_record
from mmfixnorm.search.terminal.running import driver_of

COMMAND = """
import sys
from mmfixnorm.cli.search import main
config, work_dir, *trial = sys.argv[1:]
sys.exit(main(['run', config, '--work-dir', work_dir], trial_command=trial))
"""


def test_a_result_that_no_driver_has_recorded_is_kept(make_search, small):
    search = make_search(small)

    def die(event):
        if event.kind == 'ended':  # its result is there, and is not recorded yet
            raise RuntimeError('killed')

    with pytest.raises(RuntimeError, match='killed'):
        search.run(listener=die)
    assert read_record(search.work_dir).attempts == []
    with pytest.raises(ConfigError, match=r'no driver has recorded them yet: r0-k0'):
        search.run(search__lr_range=(0.1, 3.2))
    assert search.run().kind == 'done'
    assert len(search.trainings()) == len(set(search.trainings())) == 5


@pytest.mark.parametrize(('age_s', 'replaced'), [(0.0, False), (60.0, True)])
def test_a_claim_that_is_being_written_is_of_a_trial_that_runs(make_search, small, age_s, replaced):
    search = make_search(small)
    search.run('fail', search__max_attempts=1)
    claim = search.work_dir / 'trials/r0-k0/attempt-2.claim'
    claim.touch()
    os.utime(claim, (time.time() - age_s,) * 2)
    if not replaced:
        with pytest.raises(ConfigError, match=r'still run: r0-k0 \(starting\)'):
            search.run(search__lr_range=(0.1, 3.2))
    else:
        assert search.run(search__lr_range=(0.1, 3.2)).kind == 'done'


def test_an_empty_claim_from_the_future_is_no_trial(make_search, small):
    search = make_search(small)
    folder = search.work_dir / 'trials/r0-k0'
    folder.mkdir(parents=True)
    (folder / 'attempt-1.claim').touch()
    os.utime(folder / 'attempt-1.claim', (time.time() + 3600,) * 2)
    assert search.run().kind == 'done'


def test_a_claim_that_stays_empty_is_not_waited_for_without_end(tmp_path, monkeypatch):
    (tmp_path / 'attempt-1.claim').touch()
    monkeypatch.setattr('mmfixnorm.search.executors.claim._CLAIM_WRITTEN_S', 0.3)
    monkeypatch.setattr('mmfixnorm.search.executors.claim._is_being_written', lambda path: True)
    assert claimed_pid(tmp_path / 'attempt-1.claim') is None


KILLED_IN_A_WRITE = """
import os, signal, sqlite3, sys
record = sqlite3.connect(sys.argv[1], isolation_level=None)
record.execute('PRAGMA cache_size = 1')  # so that pages are written before the transaction ends
record.execute('BEGIN')
record.execute("UPDATE trial_user_attributes SET value_json = ?", ('"' + 'x' * 3000 + '"',))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('verb', ['plan', 'status', 'report'])
def test_a_record_torn_by_a_kill_is_read_as_it_was(make_search, small, capsys, verb):
    search = make_search(small)
    search.run()
    arguments = [verb, search.config, '--work-dir', str(search.work_dir)]
    path = search.work_dir / 'study.db'
    rows = search.table()
    subprocess.run([sys.executable, '-c', KILLED_IN_A_WRITE, str(path)], check=False)
    torn = path.read_bytes()
    assert path.with_name('study.db-journal').stat().st_size > 0
    with pytest.raises(sqlite3.OperationalError, match='readonly'):  # what sqlite says of it
        sqlite3.connect(f'file:{path}?mode=ro', uri=True).execute('SELECT * FROM trials')
    assert main(arguments) == 0, capsys.readouterr().err
    assert search.table() == rows
    assert path.read_bytes() == torn  # the next driver repairs it
    assert search.run().kind == 'done'
    assert search.table() == rows
    assert not path.with_name('study.db-journal').exists()


def test_a_torn_record_that_is_repaired_while_it_is_read_is_read_again(make_search, small, monkeypatch):
    search = make_search(small)
    search.run()
    rows = search.table()
    path = search.work_dir / 'study.db'
    subprocess.run([sys.executable, '-c', KILLED_IN_A_WRITE, str(path)], check=False)
    copy = shutil.copyfile

    def repaired_meanwhile(source, target):
        if source.name.endswith('-journal'):
            sqlite3.connect(path).execute('SELECT * FROM trials').fetchall()
        copy(source, target)

    monkeypatch.setattr(shutil, 'copyfile', repaired_meanwhile)
    assert search.table() == rows
    assert not path.with_name('study.db-journal').exists()


@pytest.mark.parametrize('reader', ['pipe', 'terminal'])
def test_a_search_outlives_the_reader_of_its_output(make_search, small, fake_trial, reader):
    search = make_search(small)
    ours, theirs = os.pipe() if reader == 'pipe' else pty.openpty()
    if reader == 'pipe':
        os.close(ours)
    driver = subprocess.Popen(
        [sys.executable, '-c', COMMAND, search.config, str(search.work_dir), *fake_trial('brief')],
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that closing the terminal sends it no signal, as after `disown`
        text=True,
    )
    os.close(theirs)
    if reader == 'terminal':
        os.read(ours, 1)
        os.close(ours)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 0, err
    assert 'nothing reads the output any more' in err
    assert 'Traceback' not in err
    assert search.run().kind == 'done'
    assert len(search.trainings()) == 5
    assert (search.work_dir / 'best_config.py').exists()


@pytest.mark.parametrize('is_stdout', [True, False])
def test_a_closed_pipe_ends_a_command_quietly_if_it_is_its_output(monkeypatch, is_stdout):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, 'w') as closed:
        monkeypatch.setattr(sys, 'stdout', closed if is_stdout else sys.stdout)
        parser = CommandParser(prog='any')
        parser.set_defaults(run=lambda args: [closed.write('x'), closed.flush()])
        if is_stdout:
            assert run_command(parser, []) == 128 + signal.SIGPIPE
        else:
            with pytest.raises(BrokenPipeError):
                run_command(parser, [])
            os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)


def test_a_driver_is_known_by_its_start_not_by_its_number_alone(tmp_path):
    me = {'host': os.uname().nodename, 'pid': os.getpid(), 'started': start_time(os.getpid()), 'since': 'then'}
    (tmp_path / 'driver.lock').write_text(json.dumps(me))
    assert driver_of(tmp_path) == f'driver: process {os.getpid()}'
    (tmp_path / 'driver.lock').write_text(json.dumps({**me, 'started': '1'}))
    assert driver_of(tmp_path).startswith('no driver runs')


@pytest.mark.parametrize('file', ['report.html', 'best_config.py'])
def test_a_report_that_cannot_be_written_is_told_in_one_line(make_search, small, capsys, file):
    search = make_search(small)
    search.run()
    (search.work_dir / f'.{file}.{os.getpid()}').mkdir()  # where it would be drafted; root may write anywhere else
    assert main(['report', search.config, '--work-dir', str(search.work_dir)]) == 2
    assert 'cannot write to' in capsys.readouterr().err


def test_a_work_dir_that_is_deleted_under_a_driver_is_told(make_search, small):
    search = make_search(small)
    with pytest.raises(ConfigError, match='cannot write to .*unable to open database file'):
        open_record(search.problem())  # the work dir was made before, and is gone
    heard = []

    def delete(event):
        heard.append(event.kind)
        if event.kind == 'submitted':
            while search.work_dir.exists():  # the trial may write while it is deleted
                shutil.rmtree(search.work_dir, ignore_errors=True)

    with pytest.raises(ConfigError, match='cannot write to'):
        search.run(listener=delete)
    assert heard[-1] == 'ended'


@pytest.mark.parametrize('verb', ['plan', 'status', 'report', 'tell'])
def test_a_work_dir_that_cannot_be_read_is_told_in_one_line(make_search, small, capsys, verb):
    arguments = [verb, make_search(small).config, '--work-dir', str(Path('/') / ('x' * 300))]
    assert main(arguments) == 2
    assert 'File name too long' in capsys.readouterr().err
