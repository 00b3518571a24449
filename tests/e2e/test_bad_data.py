"""Data that do not fit, through the command: the config key, what was found, status 2, no traceback."""

import json

import numpy as np
import pytest
from PIL import Image

from mmfixnorm.cli import main

TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'


@pytest.fixture
def tool(forget_runs, capsys):
    """Runs a command; returns its status and what it wrote to stderr."""

    def run(name, *argv):
        forget_runs()
        status = main([name, *argv, '--work-dir', 'run'])
        return status, capsys.readouterr().err

    return run


def rewrite(file, change):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content)))


def without(name):
    return lambda content: {k: v for k, v in content.items() if k != name}


def areas_away(content):
    for box in content['annotations']:
        del box['area']
    return content


BAD_FILES = {  # what becomes of the annotation file, what the message says of it
    'no JSON': (b'0 0.5 0.5 0.1 0.1\n', 'is not JSON'),
    'no text': (b'\x89PNG\r\n\x1a\n\xff\xff', 'is not JSON'),
    'a list': (lambda content: content['annotations'], 'contains a JSON list'),
    'no images': (without('images'), "there is no 'images' (it has 'annotations', 'categories')"),
    'no annotations': (without('annotations'), "there is no 'annotations'"),
    'no categories': (without('categories'), "there is no 'categories'"),
    'boxes without an area': (areas_away, "annotations[0] lacks 'area'"),
    'no boxes': (lambda content: {**content, 'annotations': []}, f'{TRAIN}: no image is left'),
}


@pytest.mark.parametrize('change, message', BAD_FILES.values(), ids=BAD_FILES)
def test_an_annotation_file_that_is_not_coco_is_told(tiny_task, tmp_path, tool, change, message):
    config, file = tiny_task('detection'), tmp_path / 'data/train.json'
    if callable(change):
        rewrite(file, change)
    else:
        file.write_bytes(change)
    status, err = tool('train', config)
    assert status == 2
    assert message in err
    if 'no image is left' not in message:
        assert f"{TRAIN}.ann_file: 'data/train.json'" in err
        assert "a COCO file is a JSON object with the lists 'images', 'annotations' and 'categories'" in err


CLASSES = {  # options, what the message says
    'a head of 80 classes': (['model.bbox_head.num_classes=80'], f'has 80 classes, but {TRAIN}'),
    'classes of another data set': ([f'{TRAIN}.metainfo=None'], "lacks 80 of the 80 classes of the data set: 'person'"),
    'one class misspelt': ([f'{TRAIN}.metainfo.classes=red,bleu'], "lacks 1 of the 2 classes of the data set: 'bleu'"),
    'validation only': ([f'{VAL}.metainfo.classes=red,blue,green'], f"{VAL}.ann_file: 'data/val.json' lacks 1 of"),
    'a class too few': ([f'{TRAIN}.metainfo.classes="(\'red\',)"'], f"{TRAIN} (CocoDataset) has 1: 'red'"),
}


@pytest.mark.parametrize('options, message', CLASSES.values(), ids=CLASSES)
def test_classes_that_do_not_fit_the_annotations_are_told(tiny_task, tool, options, message):
    status, err = tool('train', tiny_task('detection'), '--cfg-options', *options)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    'task, option, message',
    [
        ('detection', f'{TRAIN}.ann_file=no.json', f"{TRAIN}.ann_file: no such file or folder: 'data/no.json'"),
        ('detection', f'{TRAIN}.data_prefix.img=no', f"{TRAIN}.data_prefix.img: no such file or folder: 'data/no'"),
        ('detection', 'val_evaluator.ann_file=no.json', "val_evaluator.ann_file: no such file or folder: 'no.json'"),
        ('segmentation', f'{TRAIN}.ann_file=no.txt', f"{TRAIN}.ann_file: no such file or folder: 'data/no.txt'"),
        ('segmentation', f'{TRAIN}.data_prefix.img_path=no', f'{TRAIN}.data_prefix.img_path: no such'),
        ('segmentation', f'{VAL}.data_prefix.seg_map_path=no', f'{VAL}.data_prefix.seg_map_path: no such'),
        ('segmentation', f'{TRAIN}.img_suffix=.jpg', f'{TRAIN}: no image is left'),
        (
            'segmentation',
            'model.auxiliary_head.num_classes=19',
            'model.auxiliary_head.num_classes: FixNormFCNHead has 19',
        ),
    ],
)
def test_what_a_config_names_and_is_not_there_is_told(tiny_task, tool, task, option, message):
    status, err = tool('train', tiny_task(task), '--cfg-options', option)
    assert status == 2
    assert message in err


def test_a_mask_with_a_label_beyond_the_classes_is_told_with_its_file(tiny_task, tmp_path, tool):
    config = tiny_task('segmentation')
    for i in range(4):
        Image.fromarray(np.full((64, 64), i + 1, dtype=np.uint8)).save(tmp_path / f'data/ann/train/{i}.png')
    status, err = tool('train', config)
    assert status == 2
    assert 'data/ann/train/' in err
    assert 'may contain the labels 0 to 2 and 255 (ignore_index), found ' in err
    assert 'reduce_zero_label=True' in err


def test_a_test_of_masks_beyond_the_classes_ends_with_status_2(tiny_task, tmp_path, tool):
    config = tiny_task('segmentation')
    assert tool('train', config)[0] == 0
    Image.fromarray(np.full((64, 64), 9, dtype=np.uint8)).save(tmp_path / 'data/ann/val/0.png')
    status, err = tool('test', config, 'run/iter_4.pth')
    assert status == 2
    assert 'data/ann/val/0.png: ' in err
    assert 'found 9' in err


def test_the_annotation_file_is_read_once_where_all_is_well(tiny_task, tool, monkeypatch):
    read = []
    monkeypatch.setattr('mmfixnorm.data_checks.coco._read_json', lambda *args: read.append(args))
    assert tool('train', tiny_task('detection'))[0] == 0
    assert not read
