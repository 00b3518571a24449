"""The digits configs on data of the test session's own."""

import runpy
from pathlib import Path

import pytest

from mmfixnorm.launch import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """Folder of the digits, written by the converter."""
    out = tmp_path_factory.mktemp('data') / 'digits'
    converter = runpy.run_path(str(ROOT / 'tools/dataset_converters/digits.py'))
    assert converter['main'](['--out', str(out)]) == 0
    return out


@pytest.fixture
def digits_config(digits, tmp_path):
    """Loads a digits config with its data and work dir in place."""

    def load(method, **options):
        paths = {f'{split}_dataloader.dataset.data_root': str(digits / split) for split in ('train', 'val', 'test')}
        cfg = load_config(
            str(ROOT / f'configs/digits/resnet8_{method}_1xb64-20e_digits.py'), cfg_options={**paths, **options}
        )
        cfg.work_dir = str(tmp_path / method)
        cfg.log_level = 'WARNING'
        return cfg

    return load
