"""What holds for every config: short, self-contained, listed, and its dump is the same config."""

from pathlib import Path

import modelindex
import pytest
from mmengine.config import Config

CONFIGS = Path(__file__).parents[2] / 'configs'
EVERY_FILE = sorted(CONFIGS.rglob('*.py'))
TASKS = sorted(path for path in EVERY_FILE if '_base_' not in path.parts and path.parent != CONFIGS)
NOT_LISTED = ('_wd-grid_', '_fixnorm-grid_')  # searches; their results are numbers for the configs searched


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize('path', EVERY_FILE, ids=name)
def test_it_is_short_and_needs_no_config_of_another_package(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert '::' not in text


@pytest.mark.parametrize('path', [CONFIGS / 'retinanet_fixnorm.py', *TASKS], ids=name)
def test_its_dump_is_the_same_config(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dump.py')
    assert Config.fromfile(tmp_path / 'dump.py').to_dict() == cfg.to_dict()


def test_the_model_index_lists_every_baseline_and_method_once():
    index = modelindex.load(str(CONFIGS.parent / 'model-index.yml'))
    expected = [f'configs/{name(p)}' for p in TASKS if not any(part in p.name for part in NOT_LISTED)]
    assert sorted(m.config for m in index.models) == sorted(expected)
    assert [m.name for m in index.models] == [Path(m.config).stem for m in index.models]


def test_mim_reads_the_index():
    search = pytest.importorskip('mim.commands.search')
    table = search.convert2df(search.load_metadata_from_local('mmfixnorm'))
    assert sorted(table.index) == sorted(
        m.name for m in modelindex.load(str(CONFIGS.parent / 'model-index.yml')).models
    )
    assert table.loc['resnet50-d_fixnorm_16xb64-120e_imagenet', 'imagenet-1k/top_1_accuracy'] == 78.62
