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


DIGITS = TOOLS.parent / 'configs/digits/retinanet_r18-thin-fpn_fixnorm_1xb16-1200i_digits-det.py'
# The detector of the digits for 4 iterations, on a few pictures of two classes.
DETECTOR = f"""
_base_ = [{str(DIGITS)!r}]
custom_imports = dict(imports=['mmfixnorm.det', 'toy_task'])
custom_hooks = [dict(type='WNScaleInitHook'), dict(type='ClassCheckHook'), dict(type='SaveEachRank')]
model = dict(bbox_head=dict(num_classes=2), test_cfg=dict(score_thr=0.0))
few = dict(data_root='data', metainfo=dict(classes=('red', 'blue')))
train_dataloader = dict(batch_size=1, dataset=dict(ann_file='train.json', data_prefix=dict(img='train'), **few))
val_dataloader = dict(dataset=dict(ann_file='val.json', data_prefix=dict(img='val'), indices=3, **few))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/val.json', metric=['bbox', 'proposal'])
test_evaluator = val_evaluator
train_cfg = dict(max_iters=4, val_interval=4)
param_scheduler = [dict(type='PolyLR', by_epoch=False, begin=0, end=4)]
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=2))
"""


def test_a_detector_trains_and_resumes_by_two_processes(tiny_task, tmp_path) -> None:
    tiny_task('detection')
    (tmp_path / 'detector.py').write_text(DETECTOR)
    done = run('dist_train.sh', 'detector.py', '2', '--work-dir', 'straight', cwd=tmp_path)
    assert done.returncode == 0
    assert_two_equal_ranks(tmp_path / 'straight')
    half = ['--work-dir', 'resumed', '--resume', 'straight/iter_2.pth']
    done = run('dist_train.sh', 'detector.py', '2', *half, cwd=tmp_path)
    assert done.returncode == 0
    assert 'resumed epoch: 0, iter: 2' in done.stdout + done.stderr
    assert_two_equal_ranks(tmp_path / 'resumed')
    straight, resumed = (ranks(tmp_path / name)[0]['state'] for name in ('straight', 'resumed'))
    torch.testing.assert_close(resumed, straight, rtol=0, atol=0)
    before = torch.load(tmp_path / 'straight/iter_2.pth', weights_only=False)['state_dict']
    assert not torch.equal(before['bbox_head.retina_cls.weight'], straight['bbox_head.retina_cls.weight'])


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
