"""Norm fixing with two gloo processes on the CPU, against the plain loop of reference.py with two chunks."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.regimes import reference
from tests.regimes.toy import batches, net, start_of

ROOT = Path(__file__).parents[2]
SIZE = (3, 270)  # tensors and elements of the set, over all processes


ROWS = [
    'ddp',
    'syncbn',
    'fsdp',
    'fsdp_grad_op',
    'fsdp_hybrid',
    'fsdp_no_shard',
    'fsdp_thawed',
    'fsdp2',
    'fsdp2_thawed',
    'fsdp2_replicated',
    'angle_ddp',
    'angle_fsdp',
    'angle_fsdp2',
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Regime -> what each process ended with; two processes for all regimes, as starting them takes longest."""
    out = tmp_path_factory.mktemp('trained')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    path = f'{ROOT}:{ROOT}/tests:{os.environ.get("PYTHONPATH", "")}'
    done = subprocess.run(
        [*command, str(Path(__file__).with_name('distributed_program.py')), str(out), *ROWS, 'fsdp_flat'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {row: [torch.load(out / f'{row}_{rank}.pth') for rank in range(2)] for row in [*ROWS, 'fsdp_flat']}


@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS)
def test_two_processes_follow_the_reference(row, trained, record):
    first, second = trained[row]
    assert 'error' not in first, first
    start = start_of(net())
    frozen = {'backbone.0.weight': 3} if row.endswith('thawed') else {}
    if row.startswith('angle'):
        update = reference.by_group(reference.sgd(lr=0.05), reference.sgd(lr=1.0))
        expected = reference.train(start, batches(), update, chunks=2, angle=(0.05, 'layer'))
    else:
        expected = reference.train(start, batches(), reference.sgd(), chunks=2, frozen_until=frozen)
    assert first['state'] == second['state']
    assert first['state']['target'] == pytest.approx(reference.joint_norm([start[n] for n in reference.SET]), rel=1e-12)
    for name, value in first['weights'].items():
        assert torch.equal(value, second['weights'][name]), name
    assert tuple(first['state']['size']) == SIZE
    record(row, first['weights'], expected)


@pytest.mark.slow
def test_one_flat_tensor_for_all_parameters_is_refused(trained, refused):
    first, second = trained['fsdp_flat']
    assert first == second
    refused('fsdp_flat', first['error'], 'FSDP with use_orig_params=False keeps all parameters in one flat tensor')


WEIGHTS = ('backbone.0.weight', 'backbone.3.weight', 'head.weight')


def angle(a, b):
    return math.acos(min(1.0, (a @ b / a.norm() / b.norm()).item()))


@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS)
def test_the_angles_of_sharded_weights_are_those_of_whole_ones(row, trained):
    first, second = trained[row]
    assert first['angles'] == second['angles']
    assert first['cosine'] == second['cosine']
    vectors = [[state[name].ravel() for name in WEIGHTS] for state in first['history']]
    joint = [torch.cat(parts) for parts in vectors]
    assert first['cosine'] == pytest.approx((joint[0] @ joint[-1] / joint[0].norm() / joint[-1].norm()).item())
    for number, step in enumerate(first['angles']):
        assert step['joint'] == pytest.approx(angle(joint[number], joint[number + 1]), rel=1e-7)
        expected = [angle(*pair) for pair in zip(vectors[number], vectors[number + 1])]
        assert step['layers'] == pytest.approx(expected, rel=1e-7, abs=1e-7)
    # What the optimizer proposes does not depend on how the weights are divided.
    if not row.endswith('thawed'):
        whole = trained['angle_ddp' if row.startswith('angle') else 'ddp'][0]['angles']
        shares = [step['radial_share'] for step in first['angles']]
        assert shares == pytest.approx([step['radial_share'] for step in whole], rel=1e-6, abs=1e-9)
