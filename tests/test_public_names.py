"""What a package exports is what it shows: no class or function of its own is importable and not in ``__all__``."""

import importlib
from types import ModuleType

import pytest

PACKAGES = ['core', 'engine', 'convert', 'peers', 'cls', 'det', 'seg']


@pytest.mark.parametrize('name', PACKAGES)
def test_the_exported_names_are_the_visible_ones(name: str) -> None:
    package = importlib.import_module(f'mmfixnorm.{name}')
    own = {
        key
        for key, value in vars(package).items()
        if not isinstance(value, ModuleType) and str(getattr(value, '__module__', '')).startswith(package.__name__)
    }
    assert own == set(package.__all__)
