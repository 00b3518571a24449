"""The commands as a user has them, here called by their ``main``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mmfixnorm.cli import evaluate
from mmfixnorm.cli import train as train_command

HERE = Path(__file__).parent

Main = Callable[[Sequence[str]], int]


def after_forgetting(forget: Callable[[], None], main: Main) -> Main:
    """A command that starts as in a process of its own."""

    def run(argv: Sequence[str]) -> int:
        forget()
        return main(argv)

    return run


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with the toy task importable."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return tmp_path


@pytest.fixture
def train(in_tmp: Path, forget_runs: Callable[[], None]) -> Main:
    return after_forgetting(forget_runs, train_command.main)


@pytest.fixture
def test_tool(in_tmp: Path, forget_runs: Callable[[], None]) -> Main:
    return after_forgetting(forget_runs, evaluate.main)


@pytest.fixture
def toy() -> str:
    """The toy config's path."""
    return str(HERE / 'toy.py')
