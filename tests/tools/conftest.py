"""The tools as a user has them: scripts, here called by their ``main``."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / 'tools'

Main = Callable[[Sequence[str]], int]


def load_main(name: str, before: Callable[[], None]) -> Main:
    spec = importlib.util.spec_from_file_location(f'tool_{name}', TOOLS / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def main(argv: Sequence[str]) -> int:
        before()
        return module.main(argv)

    return main


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with the toy task importable."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return tmp_path


@pytest.fixture
def train(in_tmp: Path, forget_runs: Callable[[], None]) -> Main:
    return load_main('train', forget_runs)


@pytest.fixture
def test_tool(in_tmp: Path, forget_runs: Callable[[], None]) -> Main:
    return load_main('test', forget_runs)


@pytest.fixture
def toy() -> str:
    """The toy config's path."""
    return str(HERE / 'toy.py')
