"""The shell scripts: several processes, here on the CPU, by torchrun and by Slurm."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / 'tools'
# A srun for one machine: drops its own options, then starts the tasks as Slurm would.
SRUN = """#!/usr/bin/env bash
while [ $# -gt 0 ]; do
    case $1 in
        -p) shift 2 ;;
        --ntasks=*) tasks=${1#*=}; shift ;;
        -*) shift ;;
        *) break ;;
    esac
done
export SLURM_NTASKS=$tasks SLURM_NODELIST=this
pids=()
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
SCONTROL = '#!/bin/sh\necho 127.0.0.1\n'

pytestmark = pytest.mark.slow


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return str(sock.getsockname()[1])


def run(script: str, *args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    for name, text in {'srun': SRUN, 'scontrol': SCONTROL}.items():
        path = cwd / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'LOCAL_RANK'))}
    done = subprocess.run(
        ['bash', str(TOOLS / script), *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **inherited,
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
            'PATH': f'{cwd}/bin:{inherited["PATH"]}',
            'PORT': free_port(),
            'PYTHON': sys.executable,
            'PYTHONPATH': str(HERE),
            **env,
        },
    )
    sys.stderr.write(done.stdout[-3000:] + done.stderr[-3000:])  # shown when the test fails
    return done


def ranks(work_dir: Path) -> list[dict]:
    return [torch.load(path, weights_only=False) for path in sorted(work_dir.glob('rank*.pth'))]


def assert_two_equal_ranks(work_dir: Path) -> None:
    first, second = ranks(work_dir)
    assert first['world_size'] == second['world_size'] == 2
    torch.testing.assert_close(first['state'], second['state'], rtol=0, atol=0)


def test_dist_train_trains_and_resumes_with_equal_weights_on_both_ranks(toy, tmp_path) -> None:
    done = run('dist_train.sh', toy, '2', '--work-dir', 'run', cwd=tmp_path)
    assert done.returncode == 0
    assert_two_equal_ranks(tmp_path / 'run')
    after_one = ranks(tmp_path / 'run')[0]['state']

    two = ['--resume', '--cfg-options', 'train_cfg.max_epochs=2']
    done = run('dist_train.sh', toy, '2', '--work-dir', 'run', *two, cwd=tmp_path)
    assert done.returncode == 0
    assert 'resumed epoch: 1' in done.stdout + done.stderr
    assert_two_equal_ranks(tmp_path / 'run')
    after_two = ranks(tmp_path / 'run')[0]['state']
    assert not torch.equal(after_one['conv.weight'], after_two['conv.weight'])


def test_dist_test_by_two_processes_counts_each_image_once(toy, train, test_tool, in_tmp) -> None:
    assert train([toy, '--work-dir', 'run']) == 0
    arguments = ['--work-dir', 'test', '--out-item', 'metrics', '--out']
    done = run('dist_test.sh', toy, 'run/epoch_1.pth', '2', *arguments, 'two.json', cwd=in_tmp)
    assert done.returncode == 0
    assert test_tool([toy, 'run/epoch_1.pth', *arguments, 'one.json']) == 0
    assert (in_tmp / 'two.json').read_text() == (in_tmp / 'one.json').read_text()


def test_slurm_scripts_train_two_tasks_and_test(toy, tmp_path) -> None:
    env = {'GPUS_PER_NODE': '0', 'SRUN_ARGS': '--quiet --exclusive', 'MASTER_PORT': free_port()}
    done = run('slurm_train.sh', 'part', 'job', toy, 'run', cwd=tmp_path, GPUS='2', **env)
    assert done.returncode == 0
    assert_two_equal_ranks(tmp_path / 'run')
    checkpoint = 'run/epoch_1.pth'
    done = run('slurm_test.sh', 'part', 'job', toy, checkpoint, cwd=tmp_path, GPUS='1', **env)
    assert done.returncode == 0
    assert 'hit_rate' in done.stdout + done.stderr


def test_bad_input_ends_every_process_and_tells_why(tmp_path) -> None:
    done = run('dist_train.sh', 'missing.py', '2', cwd=tmp_path)
    assert done.returncode != 0
    assert "missing.py: no such config file: 'missing.py'" in done.stderr


@pytest.mark.parametrize(
    ('script', 'wanted'),
    [
        ('dist_train', 'config file'),
        ('dist_test', 'config file'),
        ('slurm_train', 'partition'),
        ('slurm_test', 'partition'),
    ],
)
def test_without_arguments_a_script_names_what_it_wants(script, wanted, tmp_path) -> None:
    done = run(f'{script}.sh', cwd=tmp_path)
    assert done.returncode != 0
    assert wanted in done.stderr
