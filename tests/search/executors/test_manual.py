"""--executor manual: commands out, results in, and nothing held in between."""

import importlib.util
import os
import socket
import subprocess
from pathlib import Path

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.executors.manual import ManualExecutor, ManualSettings
from mmfixnorm.search.record.lock import driver_lock
from mmfixnorm.search.record.study import read_record

TOOL = Path(__file__).parents[3] / 'tools' / 'fixnorm_search.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('fixnorm_search', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cli(tool, fake_trial, write_config, small, capsys, tmp_path):
    """Run the tool on a small search in ``w``; return exit code, the commands it prints and stderr."""

    def run(*argv, mode='plain', search=small):
        argv = [argv[0], write_config(search), *argv[1:], '--work-dir', str(tmp_path / 'w')]
        code = tool.main(argv, trial_command=fake_trial(mode))
        out, err = capsys.readouterr()
        return code, [line for line in out.splitlines() if 'fake_trial.py' in line], err

    return run


def run_all(commands):
    for command in commands:
        subprocess.run(['/bin/sh', '-c', command], check=True)


def keys(commands):
    return [Path(command.split()[-1]).name for command in commands]


@pytest.mark.slow
def test_a_search_by_hand_ends_like_one_on_this_machine(cli, make_search, small):
    local = make_search(small, 'local')
    best = local.run().best
    code, commands, _ = cli('run', '--executor', 'manual')
    rounds = []
    while code == 3:
        rounds.append(keys(commands))
        run_all(commands)
        code, commands, _ = cli('tell')
    assert (code, commands) == (0, [])
    assert rounds == [['r0-k0', 'r0-k1'], ['r1-k0', 'r1-k1'], ['alpha-1']]
    by_hand = make_search(small, 'w')
    assert by_hand.table() == local.table()
    assert by_hand.run().best == best


def test_what_is_not_run_yet_is_printed_again_and_what_is_run_is_recorded(cli, tmp_path):
    commands = cli('run', '--executor', 'manual')[1]
    run_all(commands[1:])
    code, left, err = cli('tell')
    assert (code, left) == (3, commands[:1])
    assert err.endswith(' tell\n')
    assert [a.spec.key for a in read_record(tmp_path / 'w').attempts] == ['r0-k1']
    assert cli('run', '--executor', 'manual')[:2] == (3, left)


def test_nothing_is_held_between_two_commands(cli, tmp_path):
    cli('run', '--executor', 'manual')
    with driver_lock(tmp_path / 'w'):
        assert cli('tell')[0] == 2


def test_tell_without_a_search_ends_with_status_2(cli, tmp_path):
    code, _, err = cli('tell')
    assert (code, 'no search was started' in err) == (2, True)
    assert not (tmp_path / 'w').exists()


def test_a_broken_config_told_by_one_leaves_the_others_to_whoever_runs_them(cli, tmp_path):
    commands = cli('run', '--executor', 'manual', mode='broken')[1]
    run_all(commands[:1])
    code, _, err = cli('tell')
    assert code == 2
    assert 'trial r0-k0: the set of weights to fix is empty' in err
    assert [a.result.outcome for a in read_record(tmp_path / 'w').attempts] == ['broken']
    assert (tmp_path / 'w' / 'trials' / 'r0-k1' / 'attempt-1.claim').exists()


def test_a_result_that_is_torn_is_told_and_kept(cli, tmp_path):
    run_all(cli('run', '--executor', 'manual', mode='corrupt-r0-k0')[1][:1])
    code, _, err = cli('tell')
    assert (code, 'r0-k0/result.json: not a valid result' in err) == (2, True)


def test_a_trial_that_is_handed_out_is_not_started_by_another_executor(cli):
    cli('run', '--executor', 'manual')
    code, _, err = cli('run', '--executor', 'local')
    assert code == 2
    assert "started by the executor 'manual', this is 'local'; continue with --executor manual" in err


def test_a_trial_that_runs_here_is_not_handed_out(tmp_path):
    local = LocalExecutor(1, ['/bin/sh', '-c', 'sleep 60'])
    handle = local.submit(tmp_path, 1)
    while not (Path(handle).exists() and Path(handle).read_text()):
        pass
    with pytest.raises(ConfigError, match="started by the executor 'local', this is 'manual'"):
        ManualExecutor(['true']).adopt(tmp_path, 1)
    local.cancel(handle)


def test_a_command_survives_the_shell(tmp_path):
    folder = tmp_path / 'a folder'
    folder.mkdir()
    executor = ManualExecutor(['touch', 'it is', '--'])
    command = executor.describe(executor.submit(folder, 1))
    assert command == f"touch 'it is' -- '{folder}'"


def test_a_result_of_an_earlier_attempt_is_not_taken_for_this_one(tmp_path):
    executor = ManualExecutor(['true'])
    (tmp_path / 'result.json').write_text('{"attempt": 1}')
    assert executor.poll(executor.submit(tmp_path, 2)) is None
    assert executor.poll(executor.submit(tmp_path, 1)) is not None


@pytest.mark.slow
def test_a_trial_on_two_nodes_has_a_command_for_each(tmp_path):
    """Run side by side they are one training in four processes: each has its rank, and all the same address."""
    settings = ManualSettings(nodes_per_trial=2, gpus_per_trial=4)
    script = ['/bin/sh', '-c', 'echo $RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR:$MASTER_PORT >> $0/ran']
    executor = settings.build(workers=1, command=script, timeout_s=None)
    commands = executor.describe(executor.submit(tmp_path, 1)).splitlines()
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        address = ('127.0.0.1', str(s.getsockname()[1]))
    env = {**os.environ, **dict(zip(('MASTER_ADDR', 'MASTER_PORT'), address))}
    nodes = [subprocess.Popen(['/bin/sh', '-c', command], env=env) for command in commands]
    assert [node.wait(120) for node in nodes] == [0, 0]
    ran = sorted((tmp_path / 'ran').read_text().splitlines())
    assert ran == [f'{rank} 4 {rank % 2} {":".join(address)}' for rank in range(4)]


def test_a_command_of_two_nodes_asks_for_what_only_the_user_knows(tmp_path):
    executor = ManualSettings(nodes_per_trial=2, gpus_per_trial=2).build(workers=1, command=['true'], timeout_s=None)
    first = executor.describe(executor.submit(tmp_path, 1)).splitlines()[0]
    env = {key: value for key, value in os.environ.items() if not key.startswith('MASTER_')}
    done = subprocess.run(['/bin/sh', '-c', first], env=env, capture_output=True, text=True)
    assert done.returncode
    assert 'MASTER_ADDR: the first node of the trial' in done.stderr
