"""What every test starts from: few threads, a known seed, no state left by the one before."""

import logging
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

# The suite's processes share the machine, and the models are tiny.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def forget_runs() -> Iterator[Callable[[], None]]:
    """Forget the loggers, hubs, visualizers and scopes of the Runners that a test has built.

    mmengine keeps them for the life of the process, by a name that ends in the time to the
    second: a second Runner within that second would share them. A test that builds two calls this
    in between.
    """

    def forget() -> None:
        for manager in (DefaultScope, MessageHub, Visualizer, MMLogger):
            for instance in manager._instance_dict.values():
                if isinstance(instance, logging.Logger):
                    for handler in instance.handlers:
                        handler.close()
            manager._instance_dict.clear()

    yield forget
    forget()


@pytest.fixture
def tiny_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Go to an empty folder with the data of ``detection`` or ``segmentation`` in ``data``; return the config."""
    folder = Path(__file__).parent / 'tiny'

    def prepare(task: str) -> str:
        runpy.run_path(str(folder / 'data.py'))[f'write_{task}'](tmp_path / 'data')
        monkeypatch.chdir(tmp_path)
        return str(folder / f'{task}.py')

    return prepare
