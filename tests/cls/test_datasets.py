"""The subset of an image folder: which images, the same ones every time, and bad input."""

from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image

from mmfixnorm.cls.datasets import SubsetCustomDataset
from mmfixnorm.errors import ConfigError


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 12, 10 and 11 images."""
    root = tmp_path_factory.mktemp('images')
    for name, count in (('a', 12), ('b', 10), ('c', 11)):
        (root / name).mkdir()
        for i in range(count):
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(root / name / f'{i:02d}.png')
    return root


def paths(dataset: CustomDataset) -> list[str]:
    return [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]


def of_subset(folder: Path, subset, **kwargs) -> list[str]:
    return paths(SubsetCustomDataset(data_root=str(folder), subset=subset, **kwargs))


@pytest.mark.parametrize(('subset', 'per_class'), [(1, 1), (10, 10), ((3, 7), 4), ([0, 2], 2)])
def test_every_class_gives_the_same_number_of_images(folder, subset, per_class):
    dataset = SubsetCustomDataset(data_root=str(folder), subset=subset)
    assert np.bincount(dataset.get_gt_labels()).tolist() == [per_class] * 3


def test_without_a_subset_it_is_the_parent(folder):
    assert of_subset(folder, None) == paths(CustomDataset(data_root=str(folder)))


def test_the_choice_is_the_same_every_time_and_depends_on_the_seed(folder):
    assert of_subset(folder, 4) == of_subset(folder, 4)
    assert of_subset(folder, 4) != of_subset(folder, 4, subset_seed=1)


def test_the_choice_is_what_it_was_when_results_were_written(folder):
    """Another order would make all earlier results on subsets another experiment."""
    chosen = [path.removeprefix(f'{folder}/') for path in of_subset(folder, 2)]
    expected = [
        f'{name}/{i:02d}.png'
        for label, (name, count) in enumerate((('a', 12), ('b', 10), ('c', 11)))
        for i in sorted(np.random.RandomState([0, label]).permutation(count)[:2])
    ]
    assert chosen == expected


def test_the_choice_is_spread_and_not_the_first_files(folder):
    first = [p for p in paths(CustomDataset(data_root=str(folder))) if int(Path(p).stem) < 5]
    assert of_subset(folder, 5) != first


def test_ranges_that_do_not_overlap_share_no_image_and_make_up_the_whole(folder):
    train, val = of_subset(folder, 7), of_subset(folder, (7, 10))
    assert not set(train) & set(val)
    assert sorted(train + val) == of_subset(folder, 10)


def test_a_smaller_subset_is_a_part_of_a_larger_one(folder):
    assert set(of_subset(folder, 3)) < set(of_subset(folder, 8))


@pytest.mark.parametrize(
    ('subset', 'message'),
    [
        (0, 'got 0'),
        (-3, 'got -3'),
        (2.5, r'got 2\.5'),
        (True, 'got True'),
        ('5', "got '5'"),
        ((5, 5), r'got \(5, 5\)'),
        ((-1, 5), r'got \(-1, 5\)'),
        ((1, 2, 3), r'got \(1, 2, 3\)'),
        (11, r"class 'b' has 10 images in .*, fewer than the 11"),
        ((8, 12), r"class 'b' has 10 images in .*, fewer than the 12"),
    ],
)
def test_a_subset_that_cannot_be_had_is_refused_with_the_value(folder, subset, message):
    with pytest.raises(ConfigError, match=message):
        SubsetCustomDataset(data_root=str(folder), subset=subset)


def test_a_class_without_any_image_is_refused_too(folder, tmp_path):
    for name in 'abc':
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ConfigError, match="class 'empty' has 0 images"):
        SubsetCustomDataset(data_root=str(tmp_path), subset=2)
