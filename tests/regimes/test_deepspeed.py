"""Norm fixing under DeepSpeed ZeRO, two gloo processes on the CPU, against the plain loop of reference.py.

DeepSpeed is no requirement of the suite. ``DS_BUILD_OPS=0 pip install deepspeed`` lets these tests run; the first
time DeepSpeed compiles its communication for CPUs, which takes two minutes and a C++ compiler.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.regimes import reference
from tests.regimes.toy import batches, net, start_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec('deepspeed') is None, reason='DeepSpeed is not installed'),
]

ROOT = Path(__file__).parents[2]
REGIMES = ['zero1', 'zero2', 'zero3', 'zero_mixed1', 'resumed']
REGIMES += ['angle_zero1', 'angle_zero2', 'angle_zero_layer1']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Regime -> what each process ended with; two processes for all regimes, as starting them takes longest."""
    out = tmp_path_factory.mktemp('trained')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    path = f'{ROOT}:{ROOT}/tests:{os.environ.get("PYTHONPATH", "")}'
    done = subprocess.run(
        [*command, str(Path(__file__).with_name('deepspeed_program.py')), str(out), *REGIMES],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {row: [torch.load(out / f'{row}_{rank}.pth') for rank in range(2)] for row in REGIMES}


@pytest.mark.parametrize('row', ['zero1', 'zero2', 'angle_zero1', 'angle_zero2'])
def test_zero_follows_the_reference(row, trained, record):
    first, second = trained[row]
    assert 'error' not in first, first
    start = start_of(net())
    update, angle = reference.sgd(), None
    if row.startswith('angle'):
        update, angle = reference.by_group(reference.sgd(lr=0.05), reference.sgd(lr=1.0)), (0.05, 'set')
    expected = reference.train(start, batches(), update, chunks=2, angle=angle)
    assert first['state'] == second['state']
    assert first['state']['target'] == pytest.approx(reference.joint_norm([start[n] for n in reference.SET]), rel=1e-6)
    for name, value in first['weights'].items():
        assert torch.equal(value, second['weights'][name]), name
    record(row, first['weights'], expected, bound=1e-6)  # float32, as ZeRO's own copy


def test_a_resumed_run_is_the_uninterrupted_one(trained):
    for resumed, straight in zip(trained['resumed'], trained['zero1']):
        assert 'error' not in resumed, resumed
        assert all(torch.equal(value, straight['weights'][name]) for name, value in resumed['weights'].items())


def test_zero_3_is_refused(trained, refused):
    first, second = trained['zero3']
    assert first == second
    refused('zero3', first['error'], 'norm fixing does not work with DeepSpeedZeroOptimizer_Stage3 of DeepSpeed')


def test_a_set_that_is_no_group_of_its_own_is_refused(trained):
    assert 'none of its 1 groups is exactly the norm-fixing set of 3 tensors' in trained['zero_mixed1'][0]['error']


def test_layers_of_a_flat_partition_cannot_turn_alone(trained):
    assert "per='layer' does not work with DeepSpeed ZeRO" in trained['angle_zero_layer1'][0]['error']
