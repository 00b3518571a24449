"""The script that each node of a Slurm job with several runs, alone: when it begins, and when it ends by itself."""

import os
import signal
import subprocess
import time

import pytest

from mmfixnorm.search.executors import slurm_script
from tests.search.executors.conformance import alive, text_of, wait_until

MINE = 'slurm 7 c 0'


def start_node(folder, command):
    env = {**os.environ, 'claim': str(folder / 'attempt-1.claim'), 'mine': MINE, 'SLURM_NODEID': '1'}
    script = slurm_script.node_script([*command, str(folder)])
    words = ['/bin/bash', '-c', script]
    return subprocess.Popen(words, env=env, start_new_session=True, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize('late_s', [3, None])
def test_a_node_waits_for_a_claim_that_it_sees_late_and_not_for_ever(tmp_path, monkeypatch, late_s):
    monkeypatch.setattr(slurm_script, 'LATE_S', 6)
    node = start_node(tmp_path, ['/bin/sh', '-c', 'echo $PET_NODE_RANK >> $0/ran'])
    if late_s is not None:
        with pytest.raises(subprocess.TimeoutExpired):
            node.wait(late_s)
        assert not (tmp_path / 'ran').exists()
        (tmp_path / 'attempt-1.claim').write_text(f'{MINE}\n')
    said = node.communicate(timeout=60)[0]
    assert (tmp_path / 'ran').exists() == (late_s is not None)
    assert (f"does not say '{MINE}' after 6 s" in said) == (late_s is None)


@pytest.mark.parametrize('words', ['slurm 7 c 1\n', ''], ids=['taken over by its requeued job', 'revoked'])
def test_a_node_ends_its_part_when_the_claim_says_something_else(tmp_path, words):
    """As on a node that Slurm has lost: nothing else there ends what the attempt has started."""
    claim = tmp_path / 'attempt-1.claim'
    claim.write_text(f'{MINE}\n')
    node = start_node(tmp_path, ['/bin/sh', '-c', 'sleep 300 & echo $$ $! > $0/pids; wait'])
    pids = [int(pid) for pid in text_of(tmp_path / 'pids').split()]
    assert all(map(alive, pids))
    claim.write_text(words)
    wait_until(lambda: not any(map(alive, pids)))
    node.communicate(timeout=60)


@pytest.mark.parametrize(('broken', 'ends'), [('unreadable', False), ('gone', False), ('revoked', True)])
def test_a_claim_that_cannot_be_read_for_some_seconds_ends_nothing(tmp_path, monkeypatch, broken, ends):
    """As on a soft NFS mount whose server is away; what ends a trial is told in its log."""
    claim = tmp_path / 'attempt-1.claim'
    claim.write_text(f'{MINE}\n')
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'cat').write_text(f'#!/bin/sh\ntest ! -e {tmp_path}/eio && exec /bin/cat "$@"\n')
    (tmp_path / 'bin' / 'cat').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}/bin{os.pathsep}{os.environ["PATH"]}')
    node = start_node(tmp_path, ['/bin/sh', '-c', 'echo $$ > $0/pid; exec sleep 8'])
    text_of(tmp_path / 'pid')
    if broken == 'unreadable':
        (tmp_path / 'eio').touch()
    elif broken == 'gone':
        claim.rename(tmp_path / 'away')
    else:
        claim.write_text('slurm revoked\n')
    time.sleep(5)
    (tmp_path / 'eio').unlink(missing_ok=True)
    if broken == 'gone':
        (tmp_path / 'away').rename(claim)
    assert node.wait(60) == (-signal.SIGKILL if ends else 0)
    log = tmp_path / 'log.txt'
    assert (log.read_text() if log.exists() else '').count("says 'slurm revoked', not 'slurm 7 c 0'") == ends


@pytest.mark.slow
def test_a_trial_whose_folder_is_moved_away_ends(tmp_path):
    folder = tmp_path / 'trial'
    folder.mkdir()
    (folder / 'attempt-1.claim').write_text(f'{MINE}\n')
    node = start_node(folder, ['/bin/sh', '-c', 'echo $$ > $0/pid; exec sleep 300'])
    text_of(folder / 'pid')
    folder.rename(tmp_path / 'aside')
    assert node.wait(60) == -signal.SIGKILL


def test_a_notice_does_not_end_the_launcher(tmp_path):
    """SIGUSR1 reaches every process of a step; only the training does something with it."""
    (tmp_path / 'attempt-1.claim').write_text(f'{MINE}\n')
    node = start_node(tmp_path, ['/bin/sh', '-c', 'kill -s USR1 0; echo $$ > $0/still-there'])
    assert node.wait(60) == 0
    assert (tmp_path / 'still-there').exists()
