"""Every command asks whether a work dir belongs to the search, and what decides results belongs to the search alone."""

import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmfixnorm.cli.search import main
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.methods import METHODS, parse_settings
from mmfixnorm.search.problem import describe_data, differences, load_problem
from mmfixnorm.search.record.compare import read_studies
from mmfixnorm.search.record.lock import driver_lock
from mmfixnorm.search.record.study import open_record, read_record
from mmfixnorm.search.report import write_report

VERBS = ['run', 'plan', 'status', 'report', 'tell', 'export']


@pytest.mark.parametrize('verb', VERBS)
@pytest.mark.parametrize(
    'change', ['search.lr_range=(0.1,3.2)', 'search.metric=accuracy/top5', 'model.head.type=Other']
)
def test_every_command_refuses_the_work_dir_of_another_search(make_search, small, capsys, verb, change):
    search = make_search(small)
    search.run()
    before = {p: p.read_bytes() for p in search.work_dir.rglob('*') if p.is_file() and p.name != 'driver.lock'}
    assert main([verb, search.config, '--work-dir', str(search.work_dir), '--cfg-options', change]) == 2
    err = capsys.readouterr().err
    assert 'holds another search' in err
    assert change.partition('=')[0].removeprefix('config.') in err
    after = {p: p.read_bytes() for p in search.work_dir.rglob('*') if p.is_file() and p.name != 'driver.lock'}
    assert after == before


@pytest.mark.parametrize('verb', VERBS)
def test_a_refusal_repeats_the_options_of_the_search(make_search, small, capsys, verb):
    search = make_search(small)
    search.run(search__lr_range=(0.1, 3.2), model__head__loss__label='two words')
    command = [search.config, '--work-dir', str(search.work_dir)]
    assert main([verb, *command]) == 2
    begun = re.search(r'it was begun with (.*); this is a command without --cfg-options\n', capsys.readouterr().err)
    assert begun
    assert main(['status', *command, *shlex.split(begun[1])]) == 0


def test_a_report_writes_no_config_that_was_not_searched(make_search, small, capsys):
    search = make_search(small)
    search.run()
    arguments = ['report', search.config, '--work-dir', str(search.work_dir)]
    assert main(arguments) == 0
    text = (search.work_dir / 'best_config.py').read_text()
    assert main([*arguments, '--cfg-options', 'optim_wrapper.optimizer.type=Adam']) == 2
    assert (search.work_dir / 'best_config.py').read_text() == text


@pytest.mark.parametrize('verb', ['plan', 'status', 'report'])
def test_a_search_is_looked_at_on_a_machine_without_its_data(make_search, small, tmp_path, capsys, verb):
    search = make_search(small)
    search.run()
    shutil.rmtree(tmp_path / 'data')
    assert main([verb, search.config, '--work-dir', str(search.work_dir)]) == 0
    if verb == 'plan':
        assert 'train_dataloader.dataset.data_root: no such file or folder' in capsys.readouterr().err
    assert main(['run', search.config, '--work-dir', str(search.work_dir)]) == 2


@pytest.mark.parametrize(
    ('extra', 'same'),
    [
        ("visualizer = dict(vis_backends=[dict(type='LocalVisBackend', save_dir='vis/{now}')])\n", True),
        ("work_dir = 'work_dirs/{now}'\n", True),
        ('from datetime import datetime\n', True),
        ("default_hooks = dict(logger=dict(type='LoggerHook', interval={now}))\n", True),
        ('train_dataloader = dict(num_workers={now})\n', True),
        ('custom_hooks = [dict(type="EarlyStoppingHook", patience={now})]\n', False),
    ],
)
def test_what_decides_no_result_may_differ(make_search, small, extra, same):
    search = make_search(small, extra=extra.format(now=1))
    search.run('fail-r1-k0', search__max_attempts=1)
    config = Path(search.config)
    config.write_text(config.read_text().replace(extra.format(now=1), extra.format(now=2)))
    if same:
        assert search.run().kind == 'done'
        assert len(search.trainings()) == 5
    else:
        with pytest.raises(ConfigError, match='holds another search'):
            search.run()


def test_other_files_in_the_data_root_decide_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('train/a', 'val/a'):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / '1.png').write_text('x')

    def described(**keys):
        return describe_data(
            dict(train_dataloader=dict(dataset=dict(type='D', data_root='.', **keys))), but=tmp_path / 'w'
        )

    inside, whole = described(data_prefix='train'), described()
    assert list(inside) == ['train_dataloader.dataset.data_prefix']
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'study.db').write_text('x')
    assert (described(data_prefix='train'), described()) == (inside, whole)
    (tmp_path / 'notes.txt').write_text('x')
    assert described(data_prefix='train') == inside
    assert described() != whole
    (tmp_path / 'train/a/2.png').write_text('x')
    assert described(data_prefix='train') != inside


def test_odd_names_links_and_locked_folders_of_the_data(tmp_path):
    cfg = dict(train_dataloader=dict(dataset=dict(type='D', data_root=str(tmp_path / 'data'))))
    (tmp_path / 'data/a').mkdir(parents=True)
    with open(os.path.join(os.fsencode(tmp_path / 'data/a'), b'\xff.png'), 'wb') as f:
        f.write(b'x')
    (tmp_path / 'data/a/up').symlink_to(tmp_path / 'data')
    (tmp_path / 'data/dead').symlink_to(tmp_path / 'nowhere')
    first = describe_data(cfg)
    assert first == describe_data(cfg)
    with open(os.path.join(os.fsencode(tmp_path / 'data/a'), b'\xfe.png'), 'wb') as f:
        f.write(b'x')
    assert describe_data(cfg) != first


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        ("custom_hooks = [dict(type='Hook', when=lambda runner: True)]\n", r'custom_hooks.0.when: .*read back'),
        ("custom_hooks = [dict(type='Hook', limit=float('inf'))]\n", r'custom_hooks.0.limit: .*read back'),
    ],
)
@pytest.mark.parametrize('verb', ['plan', 'run'])
def test_what_cannot_be_written_for_a_trial_is_named_at_the_plan(
    write_config, small, capsys, tmp_path, verb, extra, message
):
    assert main([verb, write_config(small, extra=extra), '--work-dir', str(tmp_path / 'w')]) == 2
    assert re.search(message, capsys.readouterr().err)


BLOCKS = {
    'FixNormSearch': {},
    'UnimodalFixNormSearch': {},
    'LRFitSearch': dict(own_lr=0.1),  # which is filled in from the config
    'GridSearch': dict(lrs=[0.1, 0.2]),
    'RandomSearch': dict(alpha_range=(0.5, 8.0)),
    'BayesianSearch': dict(weight_decay_range=(1e-5, 1e-3)),
    'SuccessiveHalvingSearch': dict(alpha_range=(0.5, 8.0)),
}


@pytest.mark.parametrize('processes', [1, 4])
@pytest.mark.parametrize('kind', METHODS)
def test_settings_come_back_from_their_identity(write_config, tmp_path, kind, processes):
    block = dict(type=kind, executor=dict(type='manual', gpus_per_trial=processes), **BLOCKS[kind])
    text = ', '.join(f'{key}={value!r}' for key, value in block.items())
    decay = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-4))\n"
    problem = load_problem(write_config(text, extra=decay), work_dir=tmp_path / 'w')
    problem.work_dir.mkdir()
    open_record(problem)
    (study,) = read_studies([problem.work_dir])
    assert study.settings.identity() == problem.settings.identity() == parse_settings(block).identity()


def test_two_work_dirs_of_one_name_have_two_labels(make_search, small, tmp_path):
    for name in ('one/search', 'two/search'):
        make_search(small, name).run()
    labels = [s.label for s in read_studies([tmp_path / 'one/search', tmp_path / 'two/search'])]
    assert labels == ['one/search', 'two/search']


@pytest.mark.parametrize('name', ['a b', "it's", 'what?', '50%20', '{x}', '#1', 'ü'])
def test_any_path_can_be_a_work_dir(make_search, small, name):
    search = make_search(small, name)
    assert search.run().kind == 'done'
    assert [p.name for p in search.work_dir.parent.iterdir() if p.name.startswith('study')] == []
    assert len(search.record().attempts) == 5


def alive(pid):
    try:
        return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.fixture
def left_alone(make_search, small, fake_trial):
    """A search whose driver was killed while its first trial runs; nothing has finished."""
    search = make_search(small)
    driver = subprocess.Popen(
        [sys.executable, '-c', DRIVER, search.config, str(search.work_dir), *fake_trial('hang')], start_new_session=True
    )
    claim = search.work_dir / 'trials/r0-k0/attempt-1.claim'
    wait_until(lambda: claim.exists() and len(claim.read_text().split()) == 4)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    pid = int(claim.read_text().split()[0])
    yield search, pid
    if alive(pid):
        os.killpg(pid, signal.SIGKILL)


DRIVER = """
import sys
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.problem import load_problem
config, work_dir, *command = sys.argv[1:]
run_search(load_problem(config, work_dir=work_dir), executor=LocalExecutor(1, command), poll_s=0.01)
"""


def test_a_search_whose_trials_still_run_is_not_replaced(left_alone):
    search, pid = left_alone
    with pytest.raises(ConfigError, match=rf'still run: r0-k0 \(process {pid}\)'):
        search.run(search__lr_range=(0.1, 3.2))
    assert alive(pid)
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    assert search.run(search__lr_range=(0.1, 3.2)).kind == 'done'
    assert {r.name for r in search.work_dir.glob('replaced-*')} == {'replaced-1'}


def test_a_trial_whose_claim_is_moved_away_ends_itself(left_alone):
    search, pid = left_alone
    (search.work_dir / 'trials').rename(search.work_dir / 'elsewhere')
    wait_until(lambda: not alive(pid), seconds=90)  # its claim must be gone for half a minute


def test_the_users_own_thread_limit_holds(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    assert 'MKL_NUM_THREADS' not in LocalExecutor(1, ['true'])._environment(0)
    monkeypatch.delenv('OMP_NUM_THREADS')
    environment = LocalExecutor(1, ['true'])._environment(0)
    assert environment['OMP_NUM_THREADS'] == environment['MKL_NUM_THREADS']


def test_all_trials_are_asked_to_end_before_any_is_waited_for(make_search, small):
    search = make_search(small)
    calls = []

    class Recorder(LocalExecutor):
        def request_end(self, handle):
            calls.append('request')
            super().request_end(handle)

        def cancel(self, handle):
            calls.append('cancel')
            super().cancel(handle)

        def refresh(self):
            if len(list(search.work_dir.glob('trials/*/attempt-1.claim'))) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    executor = Recorder(2, search._command('hang'), grace_s=1.0)
    assert run_search(search.problem(2), executor=executor, poll_s=0.01).kind == 'interrupted'
    assert calls == ['request', 'request', 'cancel', 'cancel']


@pytest.mark.parametrize(
    ('name', 'has_locks', 'told'),
    [
        ('driver.lock', True, r"cannot write to .*driver\.lock'\)"),
        ('driver.lock.held', False, r'a process that is not known \(driver\.lock\.held: Is a directory\)'),
    ],
)
def test_a_lock_that_is_another_users_is_told_in_a_line(tmp_path, monkeypatch, name, has_locks, told):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not has_locks:
        monkeypatch.setattr(fcntl, 'flock', no_locks)
    (tmp_path / name).mkdir()  # a missing permission would not keep root out
    with pytest.raises(ConfigError, match=told), driver_lock(tmp_path):
        pass


def test_a_file_system_without_locks_has_one_driver_all_the_same(make_search, small, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    search = make_search(small)
    search.work_dir.mkdir()
    monkeypatch.setattr(fcntl, 'flock', no_locks)
    with driver_lock(search.work_dir), pytest.raises(ConfigError, match=r'process \d+ on .*no locks'):
        search.run()
    held = search.work_dir / 'driver.lock.held'
    assert not held.exists()
    dead = subprocess.Popen(['true'])
    dead.wait()
    held.write_text(json.dumps(dict(host=os.uname().nodename, pid=dead.pid, started='1', since='then')))
    assert search.run().kind == 'done'  # a killed driver holds nobody up
    held.write_text(json.dumps(dict(host='another', pid=1, started='1', since='then')))
    with pytest.raises(ConfigError, match='process 1 on another'):
        search.run()


def test_identities_are_compared_by_what_decides_results():
    was = {'search.metric': "'a'", 'config.visualizer.name': "'x'", 'config.model': '1', 'data at d': 'folder'}
    assert differences(was, {**was, 'config.visualizer.name': "'y'", 'data at d': repr('not here')}) == []
    assert differences(was, {**was, 'config.model': '2', 'search.metric': "'b'"}) == ['search.metric', 'config.model']
    assert differences(was, {**was, 'data at d': 'other'}) == ['data at d']


def test_a_record_is_that_of_the_seed_in_the_best_config(make_search, small):
    search = make_search(small)
    search.run('fail-alpha-1', search__max_attempts=1)
    files = write_report(search.problem(), read_record(search.work_dir))
    assert files.best_config.read_text().startswith('# Not the winner yet')
    assert Config.fromfile(files.best_config).randomness.seed == 0
    search.run()
    files = write_report(search.problem(), read_record(search.work_dir))
    assert files.best_config.read_text().startswith('# The winner: accuracy/top1 88')


@pytest.mark.parametrize(
    ('first', 'name'), [('WeightNormHook', 'WeightNormLoggerHook'), ('ScaleInitHook', 'WNScaleInitHook')]
)
def test_a_hook_under_its_present_name_is_the_hook_under_its_first(make_search, small, first, name):
    def identity(hook):
        config = make_search(small).config
        cfg = Config.fromfile(config)
        cfg.custom_hooks = [dict(type=hook)]
        cfg.dump(config)
        return load_problem(config).identity

    assert identity(name) == identity(first)
    assert identity(name)['config.custom_hooks.0.type'] == repr(first)  # as it stands in the records of 9604418


OTHERS = [dict(type='EarlyStoppingHook', patience=1), dict(type='EMAHook')]
CHECK = dict(type='ClassCheckHook')


@pytest.mark.parametrize(
    ('was', 'now', 'same'),
    [
        ([], [CHECK], True),
        (OTHERS, [*OTHERS, CHECK], True),
        (OTHERS, [OTHERS[0], CHECK, OTHERS[1]], True),
        ([CHECK, *OTHERS], [OTHERS[0], dict(type='mmfixnorm.ClassCheckHook'), OTHERS[1]], True),
        ([CHECK, *OTHERS], OTHERS[::-1], False),
        (OTHERS, [OTHERS[0], CHECK], False),
        ([CHECK], OTHERS, False),
    ],
)
def test_a_hook_that_only_checks_makes_no_other_search(make_search, small, was, now, same):
    search = make_search(small, extra=f'custom_hooks = {was!r}\n')
    search.run('fail-r1-k0', search__max_attempts=1)
    config = Path(search.config)
    config.write_text(config.read_text().replace(repr(was), repr(now)))
    if same:
        assert search.run().kind == 'done'
        assert len(search.trainings()) == 5
    else:
        with pytest.raises(ConfigError, match=r'holds another search:\n  config\.custom_hooks'):
            search.run()
