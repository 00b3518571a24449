"""What breaks other tuners, with fake trainings: kills, failures, torn files, two drivers, another search."""

import multiprocessing
import os
import re
import resource
import signal
import sqlite3
import time

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors.claim import claim_file
from mmfixnorm.search.record.lock import driver_lock
from mmfixnorm.search.record.study import STUDY_FILE
from mmfixnorm.search.trial.folder import TrainingProgress, write_progress
from tests.search.executors.conformance import alive, wait_until

FORK = multiprocessing.get_context('fork')  # a driver without the seconds that imports take


def in_a_process(function, *args):
    """Run a driver in a process of its own; return its exit code."""
    process = FORK.Process(target=function, args=args)
    process.start()
    process.join(60)
    return process.exitcode


def kill_self_at(number):
    """A listener that is killed by signal 9 while it hears of event ``number``."""
    heard = []

    def listen(event):
        heard.append(event)
        if len(heard) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return listen


def test_a_search_finds_the_best_of_its_formula(make_search):
    search = make_search()
    outcome = search.run()
    assert (outcome.kind, outcome.best.point.lr, outcome.best.point.alpha) == ('done', 1.1, 4.0)
    assert len(search.trainings()) == 15


def test_a_finished_search_runs_nothing_again(make_search, small):
    search = make_search(small)
    first = search.run()
    assert search.run().best == first.best
    assert len(search.trainings()) == 5


def test_a_trial_that_fails_is_tried_again_and_the_search_says_so_in_the_end(make_search, small):
    search = make_search(small + ', max_attempts=2')
    outcome = search.run('fail')
    assert outcome.kind == 'stuck'
    assert 'r0-k0 failed 2 times (search.max_attempts)' in outcome.message
    assert 'out of memory, says the fake' in outcome.message
    assert [a.result.attempt for a in search.record().attempts] == [1, 2]


def test_the_time_of_a_failed_attempt_has_what_it_took_before_this_driver(make_search, small):
    search = make_search(small + ', max_attempts=1')

    def took_before(event):
        if event.kind == 'submitted' and event.data['key'] == 'r0-k0':
            progress = TrainingProgress(5, 10, 0.5, seconds=1000.0)
            write_progress(search.work_dir / 'trials' / 'r0-k0', progress, attempt=1)

    search.run('fail', listener=took_before)
    times = {a.result.key: a.result.seconds for a in search.record().attempts}
    assert times.pop('r0-k0') == 1000.0
    assert max(times.values(), default=0.0) < 1000.0


@pytest.mark.slow
# Steps that have no factor in common with the events of a training, so each kind of event is met.
@pytest.mark.parametrize(('workers', 'step'), [(1, 3), (2, 5)])
def test_kill_9_of_the_driver_at_any_event_changes_nothing(make_search, small, workers, step):
    calm = make_search(small, 'calm')
    calm.run()
    adopted, events = [], 0
    for number in range(1, 100, step):
        search = make_search(small, f'killed-{number}')
        code = in_a_process(search.run, 'brief', workers, kill_self_at(number))
        search.run('brief', workers, lambda e: adopted.append(e.kind == 'adopted'))
        assert search.table() == calm.table(), f'killed at event {number}'
        assert sorted(search.trainings()) == sorted(calm.trainings()), f'killed at event {number}'
        if code == 0:
            break
        assert code == -signal.SIGKILL
        events = number
    assert events >= 5 * 4  # submitting, submitted, ended and recorded of five trainings
    assert any(adopted)  # else no trial outlived its driver, and nothing was tested


@pytest.mark.slow
def test_a_driver_killed_again_and_again_still_arrives(make_search, small):
    search, calm = make_search(small), make_search(small, 'calm')
    calm.run()
    kills = 0
    while in_a_process(search.run, 'brief', 2, kill_self_at(3 + kills)) != 0:
        kills += 1
        assert kills < 40
    assert kills > 2
    assert search.table() == calm.table()
    assert sorted(search.trainings()) == sorted(calm.trainings())


def test_the_record_is_there_in_full_or_not_at_all(make_search, small):
    search = make_search(small)
    assert in_a_process(search.run, 'plain', 1, kill_self_at(1)) == -signal.SIGKILL
    with sqlite3.connect(search.work_dir / STUDY_FILE) as database:
        assert database.execute('PRAGMA integrity_check').fetchone() == ('ok',)
    assert search.record().attempts == []


def test_a_draft_of_the_record_that_was_cut_off_does_no_harm(make_search, small):
    search = make_search(small)
    search.work_dir.mkdir()
    (search.work_dir / f'.{STUDY_FILE}.123').write_bytes(b'SQLite format 3\0 and no more')
    assert search.run().kind == 'done'


def test_a_diverged_trial_is_a_result_and_is_not_repeated(make_search):
    search = make_search()
    outcome = search.run('diverge-high')
    assert outcome.best.point.lr == 1.1
    diverged = [a.spec.key for a in search.record().attempts if a.result.outcome == 'diverged']
    assert diverged == ['r0-k3', 'r0-k4']
    assert len(search.trainings()) == 15


def test_all_diverged_ends_the_search_with_the_reason(make_search, small):
    outcome = make_search(small).run('diverge-all')
    assert (outcome.kind, outcome.best) == ('stuck', None)
    assert 'all 2 trainings of round 0 diverged' in outcome.message


def test_the_last_point_of_a_round_out_of_attempts_stops_there_and_goes_on_later(make_search, small):
    search, calm = make_search(small + ', max_attempts=1'), make_search(small, 'calm')
    calm.run()
    assert search.run('fail-r0-k1').kind == 'stuck'
    assert search.trainings() == ['r0-k0']
    assert search.run().kind == 'done'
    assert search.table() == calm.table()


def test_a_second_driver_is_told_who_holds_the_search(make_search, small):
    search = make_search(small)
    search.run()
    with driver_lock(search.work_dir), pytest.raises(ConfigError) as refused:
        search.run()
    who = rf'process {os.getpid()} on {re.escape(os.uname().nodename)}, since \d{{4}}-'
    assert re.search(who, str(refused.value))


def test_the_lock_of_a_killed_driver_holds_nobody_up(make_search, small):
    search = make_search(small)
    assert in_a_process(search.run, 'plain', 1, kill_self_at(3)) == -signal.SIGKILL
    assert (search.work_dir / 'driver.lock').read_text()
    assert search.run().kind == 'done'


def test_two_drivers_at_once_train_each_point_once(make_search, small):
    search = make_search(small)
    drivers = [FORK.Process(target=search.run, args=('brief', 2)) for _ in range(3)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    search.run()
    assert len(search.trainings()) == len(set(search.trainings())) == 5


def test_a_trial_that_hangs_is_ended_at_its_time_limit(make_search, small):
    search = make_search(small + ', max_attempts=1, timeout_s=0.3')
    outcome = search.run('hang')
    assert 'search.timeout_s = 0.3 passed' in outcome.message


def test_the_time_limit_is_that_of_the_attempt_whichever_driver_started_it(make_search, small):
    search = make_search(small + ', max_attempts=1, timeout_s=30')

    class Killed(BaseException):
        pass

    def listener(event):
        if event.kind == 'submitted':
            raise Killed

    with pytest.raises(Killed):
        search.run('hang', listener=listener)
    claim = claim_file(search.work_dir / 'trials/r0-k0', 1)
    wait_until(claim.exists)
    os.utime(claim, (time.time() - 40,) * 2)
    outcome = search.run('hang')
    assert 'search.timeout_s = 30.0 passed' in outcome.message
    assert outcome.seconds < 20


@pytest.mark.parametrize(
    ('change', 'shown'),
    [
        ({'search__lr_range': (0.2, 2.0)}, r'search\.lr_range: was \(0\.2, 3\.2\), is \(0\.2, 2\.0\)'),
        ({'search__metric': 'accuracy/top5'}, r"search\.metric: was 'accuracy/top1'"),
        ({'train_cfg__max_epochs': 20}, r'config\.train_cfg\.max_epochs: was 10, is 20'),
        ({'search__seed': 3}, r'search\.seed: was 0, is 3'),
    ],
)
def test_another_search_in_the_same_folder_is_refused_with_the_difference(make_search, small, change, shown):
    search = make_search(small)
    search.run()
    before = search.table()
    with pytest.raises(ConfigError, match=shown):
        search.run(**change)
    assert search.table() == before


def test_other_data_at_the_same_place_is_refused(make_search, small, tmp_path):
    search = make_search(small)
    search.run()
    (tmp_path / 'data' / 'one_more.jpg').touch()
    with pytest.raises(ConfigError, match=r'data at train_dataloader\.dataset\.data_root: was'):
        search.run()


def test_what_only_says_how_to_run_may_change(make_search, small):
    search = make_search(small)
    search.run()
    changed = {'search__max_attempts': 9, 'optim_wrapper__optimizer__lr': 0.7}
    assert search.run(workers=2, **changed).kind == 'done'


def test_a_mistake_that_stopped_every_trial_may_be_put_right_in_the_same_folder(make_search, small):
    search = make_search(small)
    with pytest.raises(ConfigError, match='trial r0-k0: the set of weights to fix is empty'):
        search.run('broken')
    assert search.run(search__metric='accuracy/top5').kind == 'done'
    assert (search.work_dir / 'replaced-1' / STUDY_FILE).exists()


def test_a_broken_config_stops_the_search_at_once(make_search):
    search = make_search()
    with pytest.raises(ConfigError):
        search.run('broken', workers=2)
    assert len(search.record().attempts) <= 2


@pytest.mark.parametrize('mode', ['plain', 'diverge-high', 'tie'])
def test_any_number_of_workers_gives_the_same_table(make_search, mode):
    tables = []
    for workers in (1, 2, 4):
        search = make_search('lr_range=(0.2, 3.2), num_splits=4, alphas=[1, 4]', f'w{workers}')
        search.run(mode, workers)
        tables.append(search.table())
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == 9


def test_a_truncated_result_stops_the_search_and_is_kept(make_search, small):
    search = make_search(small)
    torn = search.work_dir / 'trials' / 'r0-k1' / 'result.json'
    for _ in range(2):  # the second time it is found, not made
        with pytest.raises(ConfigError, match=r'r0-k1/result\.json: not a valid result'):
            search.run('corrupt-r0-k1')
        assert torn.read_text().endswith('"att')
    torn.unlink()
    assert search.run().kind == 'done'
    assert search.trainings().count('r0-k0') == 1


def test_a_full_disk_ends_the_driver_with_the_reason_and_loses_nothing(make_search, small, tmp_path):
    search, calm = make_search(small), make_search(small, 'calm')
    calm.run()
    assert in_a_process(search.run, 'plain', 1, kill_self_at(1)) == -signal.SIGKILL
    limit = (search.work_dir / STUDY_FILE).stat().st_size // 4

    def run_on_a_full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # most of study.db cannot be written
        try:
            search.run('plain')
        except ConfigError as err:
            (tmp_path / 'told').write_text(str(err))

    assert in_a_process(run_on_a_full_disk) == 0
    told = (tmp_path / 'told').read_text()
    assert told.startswith(f'--work-dir: cannot write to {str(search.work_dir)!r} (')
    assert 'run the same command again' in told
    assert search.run().kind == 'done'
    assert search.table() == calm.table()
    assert search.trainings() == calm.trainings()


def test_a_truncated_spec_is_told_and_the_search_goes_on_without_it(make_search, small):
    search = make_search(small + ', max_attempts=1')
    search.run('fail-r0-k1')
    spec = search.work_dir / 'trials' / 'r0-k1' / 'spec.json'
    spec.write_text(spec.read_text()[:20])
    with pytest.raises(ConfigError, match=r'r0-k1/spec\.json: not a valid spec'):
        search.run()
    spec.unlink()
    assert search.run().kind == 'done'


def test_a_result_of_another_search_is_not_taken_over(make_search, small):
    search = make_search(small)
    search.run()
    (search.work_dir / STUDY_FILE).unlink()
    with pytest.raises(ConfigError, match='another --work-dir'):
        search.run(search__seed=1)


def test_a_lost_record_is_made_again_from_the_results(make_search, small):
    search = make_search(small)
    search.run()
    before = search.table()
    (search.work_dir / STUDY_FILE).unlink()
    search.run()
    assert search.table() == before
    assert len(search.trainings()) == 5


def test_ctrl_c_ends_the_trials_and_leaves_a_search_that_goes_on(make_search, small):
    search, calm = make_search(small), make_search(small, 'calm')
    calm.run()
    driver = FORK.Process(target=search.run, args=('hang', 2))
    driver.start()
    claims = [search.work_dir / 'trials' / key / 'attempt-1.claim' for key in ('r0-k0', 'r0-k1')]
    wait_until(lambda: all(c.exists() and c.read_text() for c in claims))
    pids = [int(c.read_text().split()[0]) for c in claims]
    os.kill(driver.pid, signal.SIGINT)
    driver.join(20)
    assert driver.exitcode == 0
    assert not any(alive(pid) for pid in pids)
    assert [a.result.outcome for a in search.record().attempts] == ['cancelled', 'cancelled']
    search.run()
    assert search.table() == calm.table()


def test_only_the_leading_trial_keeps_its_weights(make_search, small):
    search = make_search(small)

    def leave_weights(event):
        if event.kind == 'ended':
            run = search.work_dir / 'trials' / event.data['key'] / 'run'
            run.mkdir()
            (run / 'epoch_1.pth').touch()

    search.run(listener=leave_weights)
    kept = [p.parts[-3] for p in search.work_dir.glob('trials/*/run/*.pth')]
    assert kept == [search.run().best.key]


@pytest.mark.parametrize('ended', [True, False])
def test_trials_of_another_search_whose_record_is_gone_are_not_continued(make_search, small, ended):
    search = make_search(small)
    search.run()
    (search.work_dir / STUDY_FILE).unlink()
    trials = search.work_dir / 'trials'
    if not ended:  # killed in the middle
        (trials / 'r0-k0' / 'result.json').unlink()
    before = {path: path.read_bytes() for path in trials.rglob('*') if path.is_file()}
    with pytest.raises(ConfigError, match=r"r0-k0/spec\.json: is of search .*move '.*/trials' away"):
        search.run(model__head__loss__label='another')
    assert {path: path.read_bytes() for path in trials.rglob('*') if path.is_file()} == before
    assert search.table() == []


def test_a_result_that_cannot_be_read_leaves_the_other_trials_alone(make_search, small):
    search, heard = make_search(small), []

    def take_its_place(event):
        heard.append(event.kind)
        if event.kind == 'submitting' and event.data['key'] == 'r0-k0':
            (search.work_dir / 'trials' / 'r0-k0' / 'result.json').mkdir()

    with pytest.raises(ConfigError, match=r'r0-k0/result\.json: cannot be read'):
        search.run('timed', workers=2, listener=take_its_place)
    assert heard.count('submitted') == 2
    assert 'stopping' not in heard
    assert search.record().attempts == []
    (search.work_dir / 'trials' / 'r0-k0' / 'result.json').rmdir()
    assert search.run().kind == 'done'
