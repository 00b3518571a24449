"""The tools and mim on configs of the toolboxes."""

import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.utils import get_installed_path

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'
ONE_EPOCH = ['--cfg-options', 'train_cfg.max_epochs=1']


@pytest.fixture(scope='session')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits where the config looks for them: below ``data``."""
    folder = tmp_path_factory.mktemp('digits')
    script = ROOT / 'tools/dataset_converters/digits.py'
    subprocess.run([sys.executable, script, '--out', folder / 'data/digits'], check=True)
    return folder


@pytest.mark.slow
def test_digits_train_one_epoch_and_test_with_painted_images(train, test_tool, in_tmp, digits) -> None:
    (in_tmp / 'data').symlink_to(digits / 'data')
    assert train([str(DIGITS), '--work-dir', 'run', *ONE_EPOCH]) == 0
    eight = ['--cfg-options', 'test_dataloader.dataset.indices=8', '--show-dir', 'painted']
    assert test_tool([str(DIGITS), 'run/epoch_1.pth', '--work-dir', 'test', *eight]) == 0
    assert len(list((in_tmp / 'painted').rglob('*.png'))) == 8


@pytest.mark.slow
def test_mim_trains_the_config_with_mmpretrains_own_script(digits, tmp_path) -> None:
    (tmp_path / 'data').symlink_to(digits / 'data')
    mim = [sys.executable, '-m', 'mim', 'train', 'mmpretrain', str(DIGITS), '--gpus', '0']
    done = subprocess.run([*mim, '--work-dir', 'run', *ONE_EPOCH], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / 'run/epoch_1.pth').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('toolbox', 'config', 'option', 'data'),
    [
        (
            'mmdet',
            'retinanet/retinanet_r18_fpn_1x_coco.py',
            'model.backbone.init_cfg=None',
            'data/coco/',
        ),
        (
            'mmseg',
            'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            'model.pretrained=None',
            'data/cityscapes/',
        ),
    ],
)
def test_the_default_scope_picks_the_toolbox(train, in_tmp, capsys, toolbox, config, option, data) -> None:
    # Stops at the data, which is missing: by then the toolbox has built the model.
    path = Path(get_installed_path(toolbox)) / '.mim/configs' / config
    assert train([str(path), '--work-dir', 'run', '--cfg-options', option]) == 2
    assert data in capsys.readouterr().err
