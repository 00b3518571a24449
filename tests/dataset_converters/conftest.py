"""The converters as modules: they are scripts, and ``tools`` is no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

CONVERTERS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'


def load_converter(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'converter_{name}', CONVERTERS / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def digits() -> ModuleType:
    return load_converter('digits')


@pytest.fixture
def cifar10() -> ModuleType:
    """Loaded anew for each test, as some make the data set smaller."""
    return load_converter('cifar10')
