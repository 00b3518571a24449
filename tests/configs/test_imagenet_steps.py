"""The ImageNet configs: one step of the Runner on crops of real photos, through the config's own pipeline.

Configs whose first step differs in the size of numbers alone, alpha, learning rate or weight decay, are one case.
"""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from sklearn.datasets import load_sample_images

from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.membership import flagged

PLAIN = ('_wd_', '_wd-grid_', '_bo-wd_')
CROPS = 8


def first_step(path: Path) -> str:
    """All of a config that decides its first step, but for the size of numbers."""
    cfg = Config.fromfile(path, import_custom_modules=False).to_dict()
    cfg['optim_wrapper']['optimizer'].update(lr=None, weight_decay=None)
    cfg['model']['head'].pop('alpha', None)
    loader = cfg['train_dataloader']
    parts = [cfg['model'], cfg['optim_wrapper'], loader['dataset'], loader.get('collate_fn'), cfg.get('custom_hooks')]
    return repr([is_plain(path), cfg.get('data_preprocessor'), *parts])


def is_plain(path: Path) -> bool:
    return any(part in path.stem for part in PLAIN)


ALL = sorted((Path(__file__).parents[2] / 'configs/imagenet').glob('*.py'))
PATHS = sorted({first_step(path): path for path in reversed(ALL)}.values())

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path:
    """scikit-learn's two sample photos in the layout of ImageNet, each several times."""
    root = tmp_path_factory.mktemp('imagenet')
    (root / 'train').mkdir()
    lines = []
    for i in range(CROPS):
        Image.fromarray(load_sample_images().images[i % 2]).save(root / f'train/{i}.jpg')
        lines.append(f'{i}.jpg {100 * (i % 2)}\n')
    (root / 'train.txt').write_text(''.join(lines))
    return root


def one_step(cfg: Config, data_root: Path, work_dir: Path) -> Config:
    """The config, cut to one iteration on the photos, in place."""
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint = None
    cfg.train_dataloader.update(batch_size=CROPS, num_workers=0)
    cfg.train_dataloader.dataset.update(data_root=str(data_root), ann_file='train.txt')
    # At the start a branch is zero behind its last norm layer, and a dropped one gets no gradient: both on purpose.
    if 'ResNet' in cfg.model.backbone.type:
        cfg.model.backbone.zero_init_residual = False
    if 'drop_path_rate' in cfg.model.backbone or 'SE' in cfg.model.backbone.type:
        cfg.model.backbone.drop_path_rate = 0.0
    for mode in ('val', 'test'):
        cfg.update({f'{mode}_cfg': None, f'{mode}_dataloader': None, f'{mode}_evaluator': None})
    return cfg


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_one_training_step_on_real_images(path, load, photos, tmp_path, train_one_step, joint_norm):
    runner = Runner.from_cfg(one_step(load(path), photos, tmp_path))
    start = train_one_step(runner)

    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    after = dict(runner.model.named_parameters())
    unreached = [name for name, grad in start.gradients.items() if grad is None or not grad.any()]
    assert unreached == []
    assert all(torch.isfinite(p).all() for p in after.values())
    unmoved = {name for name, p in after.items() if torch.equal(p, start.weights[name])}
    assert not {name for name in unmoved if name.endswith('weight')}

    for name, layer in runner.model.named_modules():
        if isinstance(layer, WeightNormalized):
            weight, g = start.weights[f'{name}.weight'], start.weights[f'{name}.g']
            assert g.item() == pytest.approx(joint_norm([weight]), rel=1e-6), name
            assert g.item() < layer.scale_bound, name  # the bound is not in the way at the start

    in_set = flagged(runner.optim_wrapper.optimizer)
    if is_plain(path):
        assert not in_set
    else:
        assert runner.optim_wrapper.norm_fixer.target == pytest.approx(start.norm, rel=1e-6)
        assert joint_norm(in_set) == pytest.approx(start.norm, rel=1e-6)
