"""What every test starts from: few threads, a known seed, no state left by the one before."""

import logging
from collections.abc import Iterator

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
def _fresh_mmengine() -> Iterator[None]:
    """Forget the loggers, hubs, visualizers and scopes of the Runners that a test has built.

    mmengine keeps them by name for the life of the process, so that a second Runner of the same
    name would write into the files of the first one.
    """
    yield
    for manager in (DefaultScope, MessageHub, Visualizer, MMLogger):
        for instance in list(manager._instance_dict.values()):
            if isinstance(instance, logging.Logger):
                for handler in list(instance.handlers):
                    handler.close()
        manager._instance_dict.clear()
