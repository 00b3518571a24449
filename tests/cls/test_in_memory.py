"""Data held in memory: the same images, and the stock pipeline's distribution of crops and flips."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets.transforms import RandomCrop, RandomFlip
from PIL import Image
from scipy.stats import chisquare

from mmfixnorm.cls import BatchRandomCrop, BatchRandomFlip, InMemoryDataset
from mmfixnorm.errors import ConfigError

LOAD = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
LOADER = dict(num_workers=0, pin_memory=False, collate_fn=dict(type='whole_batch'))


@pytest.fixture
def folder(tmp_path):
    """Two classes of four random images of 6 x 6."""
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(tmp_path / name / f'{i}.png')
    init_default_scope('mmpretrain')
    return dict(type='CustomDataset', data_root=str(tmp_path), pipeline=LOAD)


def batches(dataset, **loader):
    config = dict(batch_size=3, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset, **loader)
    return list(Runner.build_dataloader(config, seed=0))


def test_batches_are_those_of_the_stock_loader(folder):
    stock = batches(folder, num_workers=0, collate_fn=dict(type='default_collate'))
    ours = batches(dict(type='InMemoryDataset', dataset=folder), **LOADER)
    assert len(ours) == len(stock) == 3
    for mine, theirs in zip(ours, stock):
        assert torch.equal(mine['inputs'].cpu(), theirs['inputs'])
        assert [int(s.gt_label) for s in mine['data_samples']] == [int(s.gt_label) for s in theirs['data_samples']]
        assert [s.img_path for s in mine['data_samples']] == [s.img_path for s in theirs['data_samples']]


def test_a_prediction_written_into_a_sample_is_not_there_the_next_time(folder):
    dataset = InMemoryDataset(folder, device='cpu')
    dataset.__getitems__([0])['data_samples'][0].set_pred_label(1)
    assert 'pred_label' not in dataset.__getitems__([0])['data_samples'][0]


def places_of_stock_crops(image, count):
    """Where the stock transforms cropped and flipped, found by comparing with every possibility."""
    crop, flip = RandomCrop(crop_size=4, padding=1), RandomFlip(prob=0.5)
    return [flip.transform(crop.transform({'img': image.copy()}))['img'] for _ in range(count)]


def test_crops_and_flips_have_the_stock_distribution():
    image = np.arange(1, 49, dtype=np.uint8).reshape(4, 4, 3)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    possible = {}
    for top in range(3):
        for left in range(3):
            window = padded[top : top + 4, left : left + 4]
            possible[window.tobytes()] = len(possible)
            possible[window[:, ::-1].tobytes()] = len(possible)
    assert len(possible) == 18
    np.random.seed(0)
    torch.manual_seed(0)
    stock = [possible[np.ascontiguousarray(i).tobytes()] for i in places_of_stock_crops(image, 1800)]
    batch = torch.from_numpy(image).permute(2, 0, 1).expand(1800, -1, -1, -1)
    ours = BatchRandomFlip()(BatchRandomCrop(4, padding=1)(batch)).permute(0, 2, 3, 1).contiguous()
    ours = [possible[i.numpy().tobytes()] for i in ours]
    for drawn in (stock, ours):  # every place as often as every other
        assert chisquare(np.bincount(drawn, minlength=18)).pvalue > 0.01


def test_images_of_different_sizes_are_refused(folder):
    Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(f'{folder["data_root"]}/cat/9.png')
    with pytest.raises(ConfigError, match='one size'):
        InMemoryDataset(folder)


def test_its_collate_function_is_for_it_alone(folder):
    with pytest.raises(ConfigError, match="'whole_batch' is for InMemoryDataset"):
        batches(folder, **LOADER)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ConfigError, match='crop_size: 9 is larger than 8 x 8'):
        BatchRandomCrop(9, padding=2)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
