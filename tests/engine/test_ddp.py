import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run(out, processes):
    program = Path(__file__).with_name('ddp_program.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
    root = Path(__file__).parents[2]
    subprocess.run(
        [*command, str(program), str(out), '8'],
        check=True,
        cwd=root,
        env={**os.environ, 'PYTHONPATH': f'{root}:{root}/tests', 'OMP_NUM_THREADS': '1'},
        timeout=300,
    )
    return [torch.load(out / f'{processes}_{rank}.pth') for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_end_with_identical_weights_and_match_one_with_the_whole_batch(tmp_path):
    (one,) = run(tmp_path, 1)
    first, second = run(tmp_path, 2)
    assert first['target'] == second['target'] == one['target']
    for name, value in one['weights'].items():
        assert torch.equal(first['weights'][name], second['weights'][name]), name
        torch.testing.assert_close(first['weights'][name], value, rtol=1e-4, atol=1e-5)
