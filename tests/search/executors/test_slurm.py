"""The Slurm executor, against a stand-in of its commands and against a real Slurm on this machine."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mmfixnorm.cli.search import main
from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import CannotWriteError, write_json
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.base import UnavailableError
from mmfixnorm.search.executors.claim import name_prefix
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.executors.slurm import SlurmExecutor, SlurmSettings
from tests.search.executors.conformance import (
    SLEEP,
    TINY,
    ExecutorConformance,
    Kind,
    alive,
    before,
    state_of,
    text_of,
    wait_until,
)

HERE = Path(__file__).parent


class Killed(BaseException):
    """The end of a driver."""


NEEDED = ('sbatch', 'slurmctld', 'slurmd', 'munged')
ACCOUNTING = ('slurmdbd', 'mariadbd', 'mariadb-install-db', 'sacctmgr')
SBIN = os.pathsep.join([os.environ['PATH'], '/usr/sbin'])


def real(kind, needed):
    missing = [name for name in needed if shutil.which(name, path=SBIN) is None]
    skip = pytest.mark.skipif(bool(missing), reason=f'not installed: {", ".join(missing)}')
    return pytest.param(kind, marks=[pytest.mark.slow, skip])


#: Real ones are for the whole module, and their tests are kept together, so each is started once.
REAL, ACCOUNTED = real('real', NEEDED), real('accounted', NEEDED + ACCOUNTING)
BOTH = pytest.mark.parametrize('cluster', ['stand-in', REAL], indirect=True)
ALL = pytest.mark.parametrize('cluster', ['stand-in', REAL, ACCOUNTED], indirect=True)
ONLY_REAL = pytest.mark.parametrize('cluster', [REAL], indirect=True)
STAND_IN = pytest.mark.parametrize('cluster', ['stand-in'], indirect=True)


def free_ports():
    """A port that is free, and whose next neighbour is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(('127.0.0.1', 0))
            try:
                second.bind(('127.0.0.1', first.getsockname()[1] + 1))
            except OSError:
                continue
            return first.getsockname()[1]


@contextlib.contextmanager
def a_real_slurm(**settings):
    """Start a Slurm that listens on the loopback address only; yield its folder."""
    with tempfile.TemporaryDirectory(prefix='slurm-', ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # munged wants its folders open to all, which pytest's are not
        env = {**os.environ, 'SLURM_LOCAL_DIR': folder, 'CPUS': '4', 'PORT': str(free_ports()), **settings}

        def do(action):
            script = ['sh', str(HERE / 'slurm_local.sh'), action]
            subprocess.run(script, env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)

        try:
            do('start')
            yield Path(folder)
        finally:
            do('stop')


@pytest.fixture(scope='module')
def real_slurm():
    with a_real_slurm() as folder:
        yield folder


@pytest.fixture(scope='module')
def accounted_slurm():
    with a_real_slurm(ACCT='1') as folder:
        yield folder


@pytest.fixture
def cluster(request, tmp_path, monkeypatch):
    """Put the commands of a Slurm in reach; return its folder."""
    if request.param != 'stand-in':
        folder = request.getfixturevalue(f'{request.param}_slurm')
        monkeypatch.setenv('SLURM_CONF', str(folder / 'slurm.conf'))
        return folder
    home, commands = tmp_path / 'stand-in', tmp_path / 'bin'
    home.mkdir()
    commands.mkdir()
    for name in ('sbatch', 'squeue', 'scancel', 'scontrol'):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S {HERE / "stand_in_slurm.py"} {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv('STAND_IN_SLURM', str(home))
    monkeypatch.setenv('PATH', f'{commands}{os.pathsep}{os.environ["PATH"]}')
    return home


def make_executor(command, workers=1, **settings):
    settings = SlurmSettings(**{'gpus_per_trial': 0, 'poll_s': 0.1, **settings})
    return SlurmExecutor(workers, command, settings, result_s=0.0)


def run(search, command, *, workers=1, listener=None, **settings):
    extra = {'listener': listener} if listener else {}
    executor = make_executor(command, workers, **settings)
    return run_search(search.problem(workers), executor=executor, poll_s=0.05, **extra)


TASK = {'key': 'k', 'lr': 1.0, 'alpha': 1.0, 'fingerprint': 'f'}
#: The first run of a job goes on and on; one that Slurm has started again goes to the end.
STEPS = (
    'echo $$ > $0/pid; date +%s.%N >> $0/starts; '
    'test -n "$SLURM_RESTART_COUNT" || while :; do date +%s.%N >> $0/steps; sleep 0.1; done'
)


def change(cluster, job_id, **what):
    """Rewrite a job of the stand-in, once it runs: its start writes it too, and would undo what was changed before."""
    path = cluster / f'{job_id}.json'
    wait_until(lambda: json.loads(path.read_text())['state'] != 'PENDING')
    draft = cluster / f'.{job_id}.changed'
    draft.write_text(json.dumps({**json.loads(path.read_text()), **what}))
    draft.replace(path)


def parent_of(pid):
    return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])


def job_of(trial_dir, attempt=1):
    return json.loads((trial_dir / f'attempt-{attempt}.job').read_text())['job_id']


def ended(events):
    return [(e.data['key'], e.data['outcome']) for e in events if e.kind == 'recorded']


@ALL
def test_a_requeued_job_goes_on_in_the_same_attempt(cluster, tmp_path):
    """With the real one it starts again only after the 10 s that its credentials are valid."""
    script = (
        'cat $0/attempt-1.claim > $0/claimed; '
        'echo ran $SLURM_RESTART_COUNT >> $0/runs; test -n "$SLURM_RESTART_COUNT" || sleep 60'
    )
    executor = make_executor(['/bin/sh', '-c', script])
    handle = executor.submit(tmp_path, 1)
    wait_until(lambda: (tmp_path / 'runs').exists())
    subprocess.run(['scontrol', 'requeue', job_of(tmp_path)], check=True)
    seen = []
    wait_until(lambda: seen.append(state_of(executor, handle)) or seen[-1])
    assert 'COMPLETED' in str(seen[-1])
    assert (tmp_path / 'runs').read_text() == 'ran\nran 1\n'
    assert (tmp_path / 'claimed').read_text().split() == ['slurm', job_of(tmp_path), executor._queue.cluster, '1']


@ALL
def test_a_job_that_somebody_else_cancels_is_noticed_and_tried_again(cluster, make_search, fake_trial):
    search = make_search(TINY)
    events = []

    def cancel_the_first(event):
        events.append(event)
        if event.kind == 'submitted' and event.data['key'] == 'r0-k0' and event.data['attempt'] == 1:
            folder = search.work_dir / 'trials' / 'r0-k0'
            wait_until(lambda: (folder / 'attempt-1.claim').exists())
            subprocess.run(['scancel', job_of(folder)], check=True)

    command = before('case $0 in *r0-k0) test -e $0/attempt-2.claim || sleep 60;; esac', fake_trial())
    assert run(search, command, listener=cancel_the_first).kind == 'done'
    assert ended(events) == [('r0-k0', 'failed'), ('r0-k0', 'done'), ('r0-k1', 'done')]
    assert 'ended as CANCELLED' in search.record().attempts[0].result.message


@BOTH
def test_a_job_whose_driver_was_killed_before_its_note_is_found_by_its_name(cluster, tmp_path):
    executor = make_executor(['/bin/sh', '-c', 'sleep 60'])
    handle = executor.submit(tmp_path, 1)
    job = job_of(tmp_path)
    (tmp_path / 'attempt-1.job').unlink()
    write_json(tmp_path / 'spec.json', TASK)
    later = make_executor(['false'])
    later.refresh()
    assert later.adopt(tmp_path, 1) == handle
    assert later.describe(handle) == f'Slurm job {job}'
    assert later.poll(handle) is None
    assert later.adopt(tmp_path, 2) is None
    later.cancel(handle)


@BOTH
def test_what_sbatch_refuses_is_told_in_its_words(cluster, tmp_path):
    with pytest.raises(ConfigError, match=r'search\.executor: sbatch: .*[Ii]nvalid partition'):
        make_executor(['true'], partition='nowhere').submit(tmp_path, 1)


LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@STAND_IN
@pytest.mark.parametrize('first', ['submitted', 'adopted'])
def test_a_refusal_in_the_middle_of_a_search_is_waited_out(cluster, make_search, fake_trial, first):
    search = make_search(TINY)
    command = before(f'until test -e {cluster}/go; do sleep 0.1; done', fake_trial())
    if first == 'adopted':
        killed(search, command)
    heard = []

    def refuse_the_second(event):
        if event.kind == first:
            (cluster / 'refuse').write_text(LIMIT)
        if LIMIT in event.text:
            heard.append(event.kind)
            (cluster / 'go').touch()
        if event.kind == 'recorded':  # while sbatch still refuses
            (cluster / 'refuse').unlink(missing_ok=True)

    assert run(search, command, workers=2, listener=refuse_the_second).kind == 'done'
    assert heard == ['warning']
    assert {a.result.outcome for a in search.record().attempts} == {'done'}


@STAND_IN
@pytest.mark.parametrize(
    'says',
    [
        'Zero Bytes were transmitted or received',
        'Unexpected message received',
        'I/O error writing script/output to file',
        'Resource temporarily unavailable',
    ],
)
def test_a_failure_of_slurm_is_no_refusal(cluster, tmp_path, says):
    executor = make_executor(SLEEP)
    (cluster / 'refuse').write_text(says)
    with pytest.raises(UnavailableError, match=says):
        executor.submit(tmp_path, 1)
    assert executor.workers == 0


@STAND_IN
def test_a_failure_of_slurm_is_not_asked_about_in_a_loop(cluster, make_search, fake_trial):
    search = make_search(TINY)
    says = 'Resource temporarily unavailable'
    (cluster / 'refuse').write_text(says)
    calls = []

    def take_it(event):
        if says in event.text:
            calls.extend((cluster / 'calls').read_text().split())
            threading.Timer(1.5, (cluster / 'refuse').unlink).start()

    assert run(search, fake_trial(), listener=take_it, poll_s=2.0).kind == 'done'
    assert calls.count('sbatch') == 1
    assert (cluster / 'calls').read_text().split().count('sbatch') == 3  # it was asked again after poll_s, once


@STAND_IN
def test_the_jobs_of_others_may_have_any_name(cluster, tmp_path):
    handle = make_executor(SLEEP).submit(tmp_path, 1)
    (cluster / 'others').write_bytes(b'98|RUNNING|None|caf\xe9\n99|RUNNING|None|a\nb|c\n')
    executor = make_executor(SLEEP)
    assert state_of(executor, handle) is None
    assert executor._queue.numbered('98').name == 'caf\ufffd'
    executor.cancel(handle)


@BOTH
def test_a_second_job_of_an_attempt_runs_nothing(cluster, tmp_path):
    script = 'echo ran >> $0/count; sleep 1'
    executors = [make_executor(['/bin/sh', '-c', script]) for _ in range(2)]
    handles = [e.submit(tmp_path, 1) for e in executors]
    for executor, handle in zip(executors, handles):
        wait_until(lambda e=executor, h=handle: state_of(e, h))
        assert 'COMPLETED' in str(executor.poll(handle))
    assert (tmp_path / 'count').read_text() == 'ran\n'


@ONLY_REAL
def test_a_job_that_is_preempted_goes_on_in_the_same_attempt(cluster, make_search, fake_trial):
    """It takes all 4 CPUs; one of a partition with priority takes its place, and ends."""
    search, local = make_search(TINY), make_search(TINY, 'local')
    local.run()
    folder = search.work_dir / 'trials' / 'r0-k0'

    def preempt(event):
        if event.kind == 'submitted' and event.data['key'] == 'r0-k0':
            wait_until(lambda: (folder / 'runs').exists())
            urgent = [
                'sbatch',
                '--wait',
                '--partition=urgent',
                '--cpus-per-task=4',
                '--output=/dev/null',
                '--wrap=true',
            ]
            subprocess.run(urgent, check=True, stdout=subprocess.DEVNULL)

    script = (
        'case $0 in *r0-k0) echo ran $SLURM_RESTART_COUNT >> $0/runs; test -n "$SLURM_RESTART_COUNT" || sleep 60;; esac'
    )
    command = before(script, fake_trial())
    assert run(search, command, listener=preempt, cpus_per_trial=4).kind == 'done'
    assert (folder / 'runs').read_text() == 'ran\nran 1\n'
    assert search.table() == local.table()
    assert {a.result.attempt for a in search.record().attempts} == {1}


@pytest.fixture
def slurm_of_two_nodes(monkeypatch):
    with a_real_slurm(NODES='2', DOWN_S='8') as folder:
        monkeypatch.setenv('SLURM_CONF', str(folder / 'slurm.conf'))
        yield folder


@pytest.mark.slow
@pytest.mark.skipif(bool(REAL.marks[1].args[0]), reason=REAL.marks[1].kwargs['reason'])
def test_a_node_that_disappears_costs_no_attempt_and_its_process_ends(slurm_of_two_nodes, make_search, fake_trial):
    """slurmd and slurmstepd are killed, the process of the job goes on: Slurm takes the node for dead.

    Slurm starts the job again on the other node, and what ran before must have ended by then.
    """
    search, local = make_search(TINY), make_search(TINY, 'local')
    local.run()
    folder = search.work_dir / 'trials' / 'r0-k0'
    nodes = []

    def lose_the_node(event):
        if event.kind == 'submitted' and event.data['key'] == 'r0-k0':
            wait_until(lambda: (folder / 'steps').exists())
            nodes.append(subprocess.check_output(['squeue', '-h', '-o', '%N', '-j', job_of(folder)], text=True).strip())
            step = parent_of(int((folder / 'pid').read_text()))
            os.kill(int((slurm_of_two_nodes / f'slurmd.{nodes[0]}.pid').read_text()), signal.SIGKILL)
            os.kill(step, signal.SIGKILL)

    command = before(f'case $0 in *r0-k0) {STEPS};; esac', fake_trial())
    assert run(search, command, listener=lose_the_node, cpus_per_trial=4).kind == 'done'
    assert search.table() == local.table()
    assert sorted(search.trainings()) == sorted(local.trainings())
    assert {a.result.attempt for a in search.record().attempts} == {1}
    last_step, second_start = ((folder / name).read_text().split()[-1] for name in ('steps', 'starts'))
    assert float(last_step) < float(second_start)


@STAND_IN
def test_a_controller_that_is_down_fails_no_trial(cluster, make_search, fake_trial):
    search, local = make_search(TINY), make_search(TINY, 'local')
    local.run()
    events, down = [], cluster / 'down'

    def take_it_down_for_a_while(event):
        events.append(event)
        if event.kind == 'submitted' and len(events) < 5:
            down.touch()
        if event.kind == 'warning' and 'waiting' in event.text:
            down.unlink()

    assert run(search, fake_trial(), listener=take_it_down_for_a_while).kind == 'done'
    warnings = [e.text for e in events if e.kind == 'warning' and 'waiting' in e.text]
    assert len(warnings) == 1
    assert 'Unable to contact slurm controller' in warnings[0]
    assert search.table() == local.table()
    assert {a.result.attempt for a in search.record().attempts} == {1}


@STAND_IN
def test_a_job_that_vanished_has_failed_and_one_that_took_its_number_is_not_it(cluster, tmp_path):
    executor = make_executor(['/bin/sh', '-c', 'sleep 60'])
    handle = executor.submit(tmp_path, 1)
    assert executor.poll(handle) is None  # the queue was not looked at since
    change(cluster, 1, name='of somebody else')
    seen = []
    wait_until(lambda: seen.append(state_of(executor, handle)) or seen[-1])
    assert 'job 1 is not in the queue any more' in str(seen[-1])
    subprocess.run(['scancel', '1'], check=True)


def old_name(handle):
    return f'{name_prefix(Path(handle))}{hashlib.sha256(handle.encode()).hexdigest()[:12]}'


@STAND_IN
@pytest.mark.parametrize('noted', [True, False])
@pytest.mark.parametrize('named', ['by this version', 'by an earlier one'])
@pytest.mark.parametrize('path', ['the same', 'another'])
def test_a_job_is_found_by_each_path_of_its_work_dir(cluster, tmp_path, path, named, noted):
    if (path, named, noted) == ('another', 'by an earlier one', False):
        pytest.skip('nothing says whose it is')
    folder = tmp_path / 'real' / 'k'
    folder.mkdir(parents=True)
    (tmp_path / 'link').symlink_to('real')
    executor = make_executor(SLEEP)
    handle = executor.submit(tmp_path / 'link' / 'k', 1)
    write_json(folder / 'spec.json', TASK)
    if named == 'by an earlier one':
        change(cluster, 1, name=old_name(handle))
    if not noted:
        (folder / 'attempt-1.job').unlink()
    text_of(folder / 'pid')
    later = make_executor(SLEEP)
    later.refresh()
    found = later.adopt(tmp_path / ('link' if path == 'the same' else 'real') / 'k', 1)
    for _ in range(3):
        later._queue.refresh(now=True)
        assert later.poll(found) is None
    executor.cancel(handle)


@STAND_IN
def test_the_job_of_another_user_in_a_shared_work_dir_is_seen(cluster, tmp_path, monkeypatch):
    handle = make_executor(SLEEP).submit(tmp_path, 1)
    pid = int(text_of(tmp_path / 'pid'))
    monkeypatch.setattr('os.getuid', lambda: 12345)
    monkeypatch.setenv('STAND_IN_USER', '12345')
    other = SlurmExecutor(1, SLEEP, SlurmSettings(gpus_per_trial=0, poll_s=0.01), result_s=4)
    assert other.adopt(tmp_path, 1) == handle
    for _ in range(5):
        other._queue.refresh(now=True)
        assert other.poll(handle) is None
    assert Path(handle).read_text() == 'slurm 1 stand-in 0\n'
    other.cancel(handle)  # scancel does nothing; the trial ends itself
    wait_until(lambda: not alive(pid))


@STAND_IN
@pytest.mark.parametrize('state', ['NODE_FAIL', 'CANCELLED', None])
def test_what_still_runs_of_a_job_has_ended_before_the_attempt_counts_as_failed(cluster, tmp_path, state):
    """As on a node that Slurm has lost, or after a controller has forgotten a job (None)."""
    executor = SlurmExecutor(1, SLEEP, SlurmSettings(gpus_per_trial=0, poll_s=0.1), result_s=4)
    handle = executor.submit(tmp_path, 1)
    pid = int(text_of(tmp_path / 'pid'))
    assert state_of(executor, handle) is None
    if state:
        change(cluster, 1, state=state)
    else:
        (cluster / '1.json').unlink()
    seen = []
    wait_until(lambda: seen.append(state_of(executor, handle)) or seen[-1])
    assert not alive(pid)
    assert f'Slurm job 1 {f"ended as {state}" if state else "is not in the queue"}' in str(seen[-1])
    assert Path(handle).read_text() == 'slurm revoked\n'
    later = make_executor(SLEEP)  # after a driver that was killed before it recorded that
    assert later.adopt(tmp_path, 1) == handle
    wait_until(lambda: state_of(later, handle))


@STAND_IN
def test_a_claim_that_cannot_be_revoked_is_told(cluster, tmp_path):
    handle = make_executor(['true']).submit(tmp_path, 1)
    wait_until(lambda: json.loads((cluster / '1.json').read_text())['state'] == 'COMPLETED')
    (tmp_path / f'.attempt-1.claim.{os.getpid()}').mkdir()  # where it would be drafted; root may write anywhere else
    with pytest.raises(CannotWriteError, match='cannot write to'):
        state_of(make_executor(['true']), handle)


def killed(search, command):
    """Run a search whose driver is killed when it has submitted a trial, and their jobs wait."""

    def die(event):
        if event.kind == 'submitted':
            raise Killed

    with pytest.raises(Killed):
        run(search, command, listener=die)


@STAND_IN
@pytest.mark.parametrize(
    ('reason', 'told'),
    [
        ('PartitionTimeLimit', True),
        ('JobHeldAdmin', True),
        ('ReqNodeNotAvail, UnavailableNodes:n[1-4]', True),
        ('Priority', False),
        ('Resources', False),
    ],
)
def test_a_job_that_slurm_may_never_start_says_why(cluster, tmp_path, reason, told):
    executor = make_executor(SLEEP)
    (cluster / 'hold').write_text(reason)
    handle = executor.submit(tmp_path, 1)
    executor.refresh()
    assert (reason in (executor.held_back(handle) or '')) == told
    executor.cancel(handle)
    assert executor.held_back(handle) is None
    (cluster / 'hold').unlink()  # which the stand-in's job waits for


@STAND_IN
def test_why_slurm_does_not_start_jobs_is_told_once(cluster, make_search, fake_trial):
    search = make_search(TINY)
    (cluster / 'hold').write_text('PartitionTimeLimit')
    heard = []

    def start_them(event):
        if event.kind == 'submitted':
            threading.Timer(1.0, lambda: (cluster / 'hold').unlink(missing_ok=True)).start()
        if event.kind == 'warning' and 'PartitionTimeLimit' in event.text:
            heard.append(event.text)

    assert run(search, fake_trial(), workers=2, listener=start_them).kind == 'done'
    assert len(heard) == 1


@STAND_IN
def test_another_search_does_not_take_the_folder_while_a_job_waits(
    cluster, make_search, fake_trial, capsys, monkeypatch
):
    search = make_search(TINY)
    (cluster / 'hold').touch()
    killed(search, fake_trial())
    with pytest.raises(ConfigError, match=r'still run: r0-k0 \(Slurm job 1, waiting\)'):
        search.run(search__lr_range=(0.1, 3.2))
    monkeypatch.setenv('COLUMNS', '160')  # a narrow table breaks it
    assert main(['status', search.config, '--work-dir', str(search.work_dir)]) == 0
    assert 'Slurm job 1 waits' in capsys.readouterr().out
    (cluster / 'hold').unlink()
    assert run(search, fake_trial()).kind == 'done'
    assert {a.result.attempt for a in search.record().attempts} == {1}


@STAND_IN
def test_a_job_that_waits_for_a_folder_that_was_deleted_is_cancelled(cluster, make_search, fake_trial):
    search = make_search(TINY)
    (cluster / 'hold').touch()
    killed(search, fake_trial())
    shutil.rmtree(search.work_dir)
    events = []

    def let_them_run(event):
        events.append(event.kind)
        (cluster / 'hold').unlink(missing_ok=True)

    assert run(search, fake_trial(), listener=let_them_run).kind == 'done'
    assert 'adopted' not in events
    assert json.loads((cluster / '1.json').read_text())['state'] == 'CANCELLED'
    assert {a.result.attempt for a in search.record().attempts} == {1}


@STAND_IN
@pytest.mark.parametrize('claim', ['slurm 1 stand-in 0', 'ray far 12 abcdef', '1 1 elsewhere 0'])
@pytest.mark.parametrize('attempt', [1, 2])
def test_an_attempt_whose_end_is_recorded_does_not_keep_the_folder(cluster, make_search, claim, attempt):
    """A config is corrected after Ctrl-C, which leaves no result."""
    search = make_search(TINY)
    search.run('fail', search__max_attempts=1)
    folder = search.work_dir / 'trials' / 'r0-k0'
    (folder / f'attempt-{attempt}.claim').write_text(f'{claim}\n')
    (folder / f'attempt-{attempt}.job').write_text('{"job_id": "1", "cluster": "stand-in"}')
    if attempt == 1:
        assert search.run(search__lr_range=(0.1, 3.2)).kind == 'done'
        assert (search.work_dir / 'replaced-1' / 'study.db').exists()
    else:
        with pytest.raises(ConfigError, match='still run: r0-k0'):
            search.run(search__lr_range=(0.1, 3.2))


@STAND_IN
def test_one_question_answers_for_all_jobs(cluster, tmp_path):
    executor = make_executor(['true'], poll_s=0.2)
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
    handles = [executor.submit(folder, 1) for folder in folders]
    for _ in range(5):  # rounds within poll_s
        executor.refresh()
        for handle in handles:
            executor.poll(handle)
    assert (cluster / 'calls').read_text().split().count('squeue') == 1


@STAND_IN
def test_sbatch_is_asked_for_what_the_settings_say(cluster, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    settings = SlurmSettings(
        partition='gpu',
        account='vision',
        gpus_per_trial=2,
        cpus_per_trial=8,
        setup=['export GREETING="good morning"'],
        sbatch_args=['--mem=32G'],
    )
    command = ['/bin/sh', '-c', 'echo $GREETING $OMP_NUM_THREADS > $0/got; mv $0/got $0/all']
    SlurmExecutor(1, command, settings, time_min=90).submit(tmp_path, 1)
    wait_until(lambda: (tmp_path / 'all').exists())
    asked = json.loads((cluster / '1.json').read_text())['arguments']
    for option in ('partition=gpu', 'account=vision', 'gres=gpu:2', 'cpus-per-task=8', 'time=90', 'mem=32G', 'nodes=1'):
        assert f'--{option}' in asked
    assert (tmp_path / 'all').read_text() == 'good morning 2\n'  # 4 CPUs for two processes


@STAND_IN
def test_a_job_of_another_cluster_is_not_guessed_about(cluster, tmp_path):
    (tmp_path / 'attempt-1.job').write_text('{"job_id": "7", "cluster": "elsewhere"}')
    with pytest.raises(ConfigError, match="job of the cluster 'elsewhere', this is 'stand-in'"):
        make_executor(['true']).adopt(tmp_path, 1)


@STAND_IN
def test_an_attempt_that_runs_on_this_machine_is_not_submitted_to_slurm_as_well(cluster, tmp_path):
    local = LocalExecutor(1, ['/bin/sh', '-c', 'sleep 60'])
    handle = local.submit(tmp_path, 1)
    wait_until(lambda: local.adopt(tmp_path, 1) and Path(handle).read_text())
    with pytest.raises(ConfigError, match="started by the executor 'local', this is 'slurm'"):
        make_executor(['true']).adopt(tmp_path, 1)
    local.cancel(handle)


@STAND_IN
def test_a_job_that_waits_in_the_queue_is_not_started_on_this_machine_as_well(cluster, tmp_path):
    (tmp_path / 'attempt-1.job').write_text('{"job_id": "7", "cluster": "stand-in"}')
    with pytest.raises(ConfigError, match=r"attempt-1\.job: .* by the executor 'slurm', this is 'local'"):
        LocalExecutor(1, ['true']).adopt(tmp_path, 1)


@STAND_IN
def test_a_result_that_a_shared_file_system_shows_late_is_waited_for(cluster, tmp_path):
    handle = make_executor(['true']).submit(tmp_path, 1)
    wait_until(lambda: json.loads((cluster / '1.json').read_text())['state'] == 'COMPLETED')
    executor = SlurmExecutor(1, ['true'], SlurmSettings(gpus_per_trial=0), result_s=60)
    executor.refresh()
    assert executor.poll(handle) is None
    (tmp_path / 'result.json').write_text('{"attempt": 1}')
    assert 'COMPLETED' in str(executor.poll(handle))


@STAND_IN
def test_a_job_that_slurm_holds_on_to_after_its_result_is_ended(cluster, tmp_path):
    executor = make_executor(['/bin/sh', '-c', 'sleep 60'])
    handle = executor.submit(tmp_path, 1)
    wait_until(lambda: json.loads((cluster / '1.json').read_text())['state'] == 'RUNNING')
    (tmp_path / 'result.json').write_text('{"attempt": 0}')
    executor.refresh()
    assert [executor.poll(handle) for _ in range(2)] == [None, None]
    (tmp_path / 'result.json').write_text('{"attempt": 1}')
    wait_until(lambda: executor.poll(handle), 10)
    assert json.loads((cluster / '1.json').read_text())['state'] == 'CANCELLED'


@STAND_IN
def test_no_answer_is_not_an_end(cluster, tmp_path):
    executor = make_executor(['/bin/sh', '-c', 'sleep 60'])
    handle = executor.submit(tmp_path, 1)
    executor.refresh()
    (cluster / 'down').touch()
    with pytest.raises(UnavailableError, match='Unable to contact'):
        executor.cancel(handle)
    (cluster / 'down').unlink()
    executor.cancel(handle)


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ConfigError, match="needs squeue, which is not installed .* use 'local' or 'manual'"):
        make_executor(['true']).refresh()


@ALL
class TestSlurm(ExecutorConformance):
    @pytest.fixture
    def executor(self, cluster):
        return Kind(make_executor, 'slurm', r'Slurm job \d+$', 'ended as FAILED')
