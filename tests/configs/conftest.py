"""What the tests of the configs share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope


@pytest.fixture(scope='session')
def load() -> Callable[[Path], Config]:
    """Reads a config and enters its scope, so that its parts can be built."""

    def load_(path: Path) -> Config:
        cfg = Config.fromfile(path)
        init_default_scope(cfg.default_scope)
        return cfg

    return load_


@pytest.fixture(scope='session')
def flat() -> Callable[..., dict[str, Any]]:
    """Dotted keys of a resolved config."""

    def flat_(value: Any, prefix: str = '') -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {k: v for key in value for k, v in flat_(value[key], f'{prefix}.{key}'.strip('.')).items()}

    return flat_


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder with real images."""
    if 'MMFIXNORM_DATA' not in os.environ:
        pytest.skip('MMFIXNORM_DATA is not set')
    return Path(os.environ['MMFIXNORM_DATA'])
