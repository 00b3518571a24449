"""Shares of classes in masks that real data sets of mmseg load, against the pixels that were written."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmfixnorm.data_checks.masks import formats_of, nothing_to_learn, remarks, survey_masks

CLASSES = ('ground', 'cell')
PIPELINE = [dict(type='mmseg.LoadAnnotations')]


def dataset_of(root, masks, classes=CLASSES, **kwargs):
    for kind in ('img', 'ann'):
        (root / kind).mkdir()
    for i, mask in enumerate(masks):
        Image.new('RGB', mask.size).save(root / f'img/{i}.png')
        mask.save(root / f'ann/{i}.png')
    return BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        img_suffix='.png',
        metainfo=dict(classes=classes),
        pipeline=PIPELINE,
        **kwargs,
    )


def grey(*values):
    return Image.fromarray(np.array([values], dtype=np.uint8))


def palette(*values):
    image = grey(*values)
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


FILES = {  # what is written, labels that are trained, what is told, what is warned of
    'labels': (grey(0, 0, 0, 1), [0, 0, 0, 1], None, None),
    'black and white': (
        grey(0, 0, 0, 255),
        [0, 0, 0, 255],
        None,
        "no pixel of 'cell' (1). They contain 0 ground 75.00%, 1 cell 0.00%, 255 ignored 25.00%; 255 is ignored",
    ),
    'one bit': (Image.fromarray(np.array([[False, True]])), [0, 1], '1 of 1 are 1-bit images: white is label 1', None),
    'a palette': (palette(0, 1, 1), [0, 1, 1], '1 of 1 are palette images: the label is the index', None),
    '16 bits': (
        Image.fromarray(np.array([[0, 257, 1000]], dtype=np.uint16)),
        [0, 1, 232],
        'images, of which the loader keeps 8 bits',
        '1 of them have values above 255, up to 1000 in',
    ),
    '16 bits of small labels': (
        Image.fromarray(np.array([[0, 1]], dtype=np.uint16)),
        [0, 1],
        'of which the loader keeps 8 bits',
        None,
    ),
}


@pytest.mark.parametrize('image, labels, told, warned', FILES.values(), ids=FILES)
def test_the_labels_that_a_file_trains_are_counted_and_told(tmp_path, image, labels, told, warned):
    data = dataset_of(tmp_path, [image])
    loaded = data[0]['gt_seg_map']
    assert loaded.ravel().tolist() == labels
    survey = survey_masks(data, CLASSES, {255})
    assert survey.pixels.tolist() == [labels.count(label) for label in range(256)]
    assert survey.name == 'all 1 masks'
    formats, found = ' '.join(formats_of(survey)), ' '.join(remarks(survey, CLASSES, {255}))
    assert (told in formats) if told else not formats
    assert (warned in found) if warned else not found


@pytest.mark.parametrize(
    ('labels', 'told'),
    [
        ((0, 255), 'every pixel that trains is of one class'),
        ((1, 255), 'every pixel that trains is of one class'),
        ((255, 255), 'every pixel that trains is of one class'),
        ((0, 0), ''),  # a rare class, which none of the masks that were read has
        ((0, 1, 255), ''),
    ],
)
def test_masks_of_which_one_class_alone_trains_while_the_rest_is_ignored_are_told(tmp_path, labels, told):
    survey = survey_masks(dataset_of(tmp_path, [grey(*labels)]), CLASSES, {255})
    found = nothing_to_learn(survey, CLASSES, {255})
    assert (told in found) if told else not found
    assert not nothing_to_learn(survey, CLASSES[:1], {255})


def test_masks_are_counted_as_the_data_set_relabels_them(tmp_path):
    survey = survey_masks(dataset_of(tmp_path, [grey(0, 1, 1, 2)], reduce_zero_label=True), CLASSES, {255})
    assert np.flatnonzero(survey.pixels).tolist() == [0, 1, 255]
    assert survey.shares(CLASSES, {255}) == '0 ground 50.00%, 1 cell 25.00%, 255 ignored 25.00%'


@pytest.mark.parametrize('rare, files', [(range(90), 64), ([], 90)])
def test_more_masks_are_read_only_while_a_class_is_missing(tmp_path, rare, files):
    data = dataset_of(tmp_path, [grey(0, 1 if i in rare else 0) for i in range(90)])
    survey = survey_masks(data, CLASSES, {255})
    assert survey.files == files
    assert bool(survey.absent(CLASSES, {255})) == (not rare)
    assert survey.name == ('all 90 masks' if files == 90 else '64 of 90 masks')


def test_data_without_masks_are_left_alone(tmp_path):
    data = dataset_of(tmp_path, [grey(0, 1)])
    (tmp_path / 'ann/0.png').unlink()
    assert survey_masks(data, CLASSES, {255}) is None


@pytest.mark.skipif('MMFIXNORM_DATA' not in os.environ, reason='needs real images: MMFIXNORM_DATA')
def test_the_masks_of_camvid_have_all_their_classes():
    root = Path(os.environ['MMFIXNORM_DATA']).resolve() / 'camvid_small'
    names = [f'class {label}' for label in range(11)]
    data = BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path='img/val', seg_map_path='ann/val'),
        metainfo=dict(classes=names),
        pipeline=PIPELINE,
    )
    survey = survey_masks(data, names, {255})
    assert remarks(survey, names, {255}) == formats_of(survey) == []
    assert survey.files == 64
    assert np.flatnonzero(survey.pixels).tolist() == [*range(11), 255]
