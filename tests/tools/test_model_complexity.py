"""The table of models: every row of Table 2 matches the paper, and one that does not is told."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NARROW = ROOT / 'configs/imagenet/mobilenet-v2-x112-tricks_wd_16xb64-350e_imagenet.py'
#: Table 2: parameters in M, FLOPs in M
PAPER = {
    'mobilenet-v2': (3.5, 300),
    'efficientnet-b0': (5.3, 384),
    'efficientnet-b1': (7.8, 685),
    'mobilenet-v2-x112-tricks': (4.7, 386),
    'mobilenet-v2-x154-tricks': (8.0, 682),
    'resnet50-d': (25.6, 4300),
    'resnet50-d-tricks': (28.1, 4300),
}


def table(*args: str | Path) -> tuple[int, list[list[str]]]:
    """The exit status and the cells of each row."""
    command = [sys.executable, ROOT / 'tools/analysis/model_complexity.py', *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if '_16xb64-' in line]
    return done.returncode, [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


@pytest.mark.slow
def test_both_forms_of_every_model_have_the_paper_s_parameters_and_flops():
    status, rows = table()
    assert status == 0
    seen = {}
    for name, _, params, flops, *_, verdict in rows:
        model, method, _ = name.split('_', 2)
        millions = float(params.removesuffix('M')), float(flops.removesuffix('M'))
        assert millions == pytest.approx(PAPER[model], rel=0.02), name
        assert verdict == 'yes'
        seen.setdefault(model, set()).add(method)
    assert seen.keys() == PAPER.keys()
    assert all(methods >= {'wd', 'fixnorm'} for methods in seen.values())


def test_a_model_that_is_off_is_told():
    status, rows = table(NARROW, '--cfg-options', 'model.backbone.divisor=8')
    assert status == 1
    assert rows[0][-1] == 'NO'


def test_a_config_that_is_not_there_is_an_error():
    assert table(ROOT / 'configs/imagenet/none.py')[0] == 2
