"""Logs of made-up trainings, studies of fake searches, and the commands as a user has them."""

import json
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mmfixnorm.cli import main

ROOT = Path(__file__).parents[2]
SEARCH_TESTS = ROOT / 'tests/search'

BY_EPOCH = """
train_cfg = dict(by_epoch=True, max_epochs=4)
model = dict(type='ImageClassifier', head=dict(type='LinearClsHead'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
custom_hooks = [dict(type='WeightNormLoggerHook', interval=2), dict(type='CrossBoundaryRiskHook', interval=2)]
"""


@pytest.fixture
def write_log(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (dicts, or text as it is) as the log of one start of a training; return the work dir."""

    def write(
        lines: Sequence[dict | str], *, name: str = 'run', start: str = '20260101_000000', config: str = BY_EPOCH
    ) -> Path:
        folder = tmp_path / name / start / 'vis_data'
        folder.mkdir(parents=True)
        text = [line if isinstance(line, str) else json.dumps(line) + '\n' for line in lines]
        (folder / 'scalars.json').write_text(''.join(text))
        (folder / 'config.py').write_text(config)
        return tmp_path / name

    return write


def train_line(epoch: int, inner: int, length: int = 4, **scalars: float) -> dict:
    """A training line as LoggerHook writes it, of iteration ``inner`` (from 1) of an epoch of ``length``."""
    iteration = (epoch - 1) * length + inner
    return {'lr': 0.1, **scalars, 'epoch': epoch, 'iter': iteration, 'step': iteration}


def val_line(step: int, **scalars: float) -> dict:
    return {**scalars, 'data_time': 0.1, 'time': 0.2, 'step': step}


@pytest.fixture
def lines():
    """Makers of training and validation lines."""
    return train_line, val_line


@pytest.fixture(scope='session')
def fake_search(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run a search whose trainings are a formula, through the real driver; return its work dir."""
    tests = runpy.run_path(str(SEARCH_TESTS / 'conftest.py'))
    data = tmp_path_factory.mktemp('data')

    def run(search: str, *, name: str = 'search', mode: str = 'plain', extra: str = '') -> Path:
        folder = tmp_path_factory.mktemp(name)
        config = folder / 'config.py'
        config.write_text(tests['SKELETON'].format(search=search, data_root=str(data)) + extra)
        command = [sys.executable, '-S', str(SEARCH_TESTS / 'fake_trial.py'), mode]
        fake = tests['FakeSearch'](str(config), folder / name, lambda _: command)
        fake.run(workers=2)
        return fake.work_dir

    return run


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command of ``mmfixnorm analyze`` in an empty folder; return status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return (main(['analyze', name.replace('_', '-'), *map(str, argv)]), *capsys.readouterr())

    return run
