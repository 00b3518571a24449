"""The pages' configs for own boxes and masks read such data, and three lines make a head."""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import init_default_scope
from PIL import Image

from mmfixnorm.config import load_config
from mmfixnorm.core.layers import FixNormConv2d, WNConv2d
from tests.e2e.test_doc_commands import FENCE

DOCS = Path(__file__).parents[2] / 'docs'


def block(page, language, words):
    """The one block of a page in this language that has these words."""
    found = FENCE.finditer((DOCS / page).read_text())
    (text,) = [m['text'] for m in found if m['language'] == language and words in m['text']]
    return text


@pytest.fixture
def write_image(tmp_path):
    def write(path, pixels):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / path)

    return write


def test_own_boxes_are_read_by_the_config_of_the_page(tmp_path, write_image, monkeypatch):
    from mmdet.registry import DATASETS

    monkeypatch.chdir(tmp_path)
    write_image('data/my_boxes/images/a.jpg', np.zeros((480, 640, 3)))
    for part in ('train', 'val', 'test'):
        (tmp_path / f'data/my_boxes/{part}.json').write_text(
            json.dumps(json.loads(block('own_boxes.md', 'json', 'bbox')))
        )
    (tmp_path / 'my_config.py').write_text(block('own_boxes.md', 'python', 'my_boxes'))
    cfg = load_config('my_config.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = DATASETS.build(loader.dataset)
        (box,) = dataset.get_data_info(0)['instances']
        assert (box['bbox'], box['bbox_label']) == ([10, 20, 110, 100], 0)
        assert len(dataset.metainfo['classes']) == cfg.model.bbox_head.num_classes == 2
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert Path(evaluator.ann_file).is_file()


def test_own_masks_are_read_by_the_config_of_the_page(tmp_path, write_image, monkeypatch):
    from mmseg.registry import DATASETS

    if 'mmsegmentation' not in {d.metadata['Name'] for d in importlib.metadata.distributions()}:
        monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmseg')  # the maintained package has another name
    monkeypatch.chdir(tmp_path)
    mask = np.repeat([0, 1, 255], 20)[None].repeat(60, axis=0)
    for part in ('train', 'val', 'test'):
        write_image(f'data/my_masks/img/{part}/a.jpg', np.zeros((60, 60, 3)))
        write_image(f'data/my_masks/ann/{part}/a.png', mask)
    (tmp_path / 'my_config.py').write_text(block('own_masks.md', 'python', 'my_masks'))
    cfg = load_config('my_config.py')
    init_default_scope('mmseg')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = DATASETS.build(loader.dataset)
        sample = dataset[0]
        assert sample['inputs'].shape == (3, 512, 512)
        assert set(sample['data_samples'].gt_sem_seg.data.unique().tolist()) == {0, 1, 255}
        heads = (cfg.model.decode_head, cfg.model.auxiliary_head)
        assert {head.num_classes for head in heads} == {len(dataset.metainfo['classes'])} == {2}


def test_three_lines_make_a_head(tmp_path, monkeypatch):
    from mmdet.registry import MODELS

    (tmp_path / 'my_heads.py').write_text(block('detection_and_segmentation.md', 'python', 'FixNormGFLHead'))
    monkeypatch.syspath_prepend(str(tmp_path))
    MODELS.module_dict.pop('FixNormGFLHead', None)  # of a test that runs the blocks of the page
    try:
        __import__('my_heads')
        head = MODELS.build(
            dict(type='FixNormGFLHead', alpha=1.0, num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
                 norm_cfg=dict(type='GN', num_groups=4),
                 anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales_per_octave=1, octave_base_scale=8,
                                       strides=[8]),
                 loss_cls=dict(type='QualityFocalLoss'), loss_bbox=dict(type='GIoULoss'))
        )  # fmt: skip
    finally:
        MODELS.module_dict.pop('FixNormGFLHead', None)
        sys.modules.pop('my_heads', None)
    assert isinstance(head.gfl_cls, FixNormConv2d)
    assert isinstance(head.gfl_reg, WNConv2d)
