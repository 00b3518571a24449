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


def doubled(content):
    first, second = content['categories']
    return {**content, 'categories': [first, dict(second, name=first['name']), dict(second, id=9)]}


MISNUMBERED = {  # file, what becomes of it, options, what the message says
    'a category twice': ('train', doubled, (), f"{TRAIN}.ann_file: 'data/train.json' has more than one category of"),
    'another order in validation': (
        'val',
        lambda content: {**content, 'categories': content['categories'][::-1]},
        (),
        f"{VAL}.ann_file: label 0 is 'blue' in 'data/val.json', but 'red' in the classes",
    ),
    'another order, and the classes as well': (
        'val',
        lambda content: {**content, 'categories': content['categories'][::-1]},
        ('--cfg-options', f'{VAL}.metainfo.classes=blue,red'),
        f"{VAL}: class 'blue' has the label 0, but 1 in {TRAIN}",
    ),
}


@pytest.mark.parametrize('name, change, options, message', MISNUMBERED.values(), ids=MISNUMBERED)
def test_a_label_that_means_two_classes_is_told(tiny_task, tmp_path, tool, name, change, options, message):
    config = tiny_task('detection')
    rewrite(tmp_path / f'data/{name}.json', change)
    status, err = tool('train', config, *options)
    assert status == 2
    assert message in err


@pytest.fixture
def flowers(tmp_path, monkeypatch, pytestconfig):
    """Go to a folder with 3 classes of images; return a config for them, a child of one for digits."""
    for mode in ('train', 'val'):
        for i in range(12):
            folder = tmp_path / 'data' / mode / 'abc'[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 20 * i, dtype=np.uint8)).save(folder / f'{i}.png')
    monkeypatch.chdir(tmp_path)
    base = pytestconfig.rootpath / 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'
    (tmp_path / 'flowers.py').write_text(f"""
_base_ = [{str(base)!r}]
model = dict(head=dict(num_classes=3))
data_preprocessor = dict(num_classes=3)
images = dict(type='CustomDataset', data_root='data', with_label=True, pipeline=_base_.test_pipeline)
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(_delete_=True, data_prefix='train', **images))
val_dataloader = dict(num_workers=0, dataset=dict(_delete_=True, data_prefix='val', **images))
param_scheduler = []
train_cfg = dict(max_epochs=1)
""")
    return 'flowers.py'


STRAYS = {  # where the folder is, options, what the message says
    'in training': ('train', (), f"{TRAIN} (CustomDataset) has 4: '.ipynb_checkpoints', 'a', 'b', 'c'."),
    'in validation': ('val', (), f"{VAL}: class 'a' has the label 1, but 0 in {TRAIN}"),
    'beside named classes': (
        'train',
        (f'{TRAIN}.metainfo.classes=a,b,c',),
        f"{TRAIN}: has 3 classes, but 'data/train' has 4 folders: '.ipynb_checkpoints', 'a', 'b', 'c'. Delete",
    ),
}


@pytest.mark.parametrize('mode, options, message', STRAYS.values(), ids=STRAYS)
def test_a_stray_folder_among_the_classes_is_told(flowers, tmp_path, tool, mode, options, message):
    (tmp_path / 'data' / mode / '.ipynb_checkpoints').mkdir()
    status, err = tool('train', flowers, *(('--cfg-options', *options) if options else ()))
    assert status == 2
    assert message in err
    assert "'.ipynb_checkpoints' " in err.partition('elete' if mode == 'train' else 'there;')[2]


def test_a_label_of_a_list_beyond_the_classes_is_told(flowers, tmp_path, tool):
    (tmp_path / 'data/list.txt').write_text('a/0.png 0\nb/1.png 1\nc/2.png 3\n')
    status, err = tool('train', flowers, '--cfg-options', f'{TRAIN}.ann_file=list.txt')
    assert status == 2
    assert f'so the labels are 0 to 2, but {TRAIN} has the label 3 (data/train/c/2.png)' in err


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


def write_masks(folder, *labels):
    """Masks whose quarters have these labels."""
    for file in folder.glob('data/ann/*/*.png'):
        Image.fromarray(np.repeat(np.array(labels, dtype=np.uint8), 16)[:, None].repeat(64, axis=1)).save(file)


def test_masks_of_black_and_white_are_refused_as_one_class_alone_would_train(tiny_task, tmp_path, tool):
    config = tiny_task('segmentation')
    write_masks(tmp_path, 255, 0, 0, 0)
    status, err = tool('train', config)
    assert status == 2
    assert f'{TRAIN}: all 4 masks: they contain 0 ground 75.00%, 1 red 0.00%, 2 blue 0.00%, 255 ignored 25.00%' in err
    assert '255 is ignored: if it stands for a class, write its label, 0 to 2, into the masks' in err


def test_classes_that_no_mask_has_are_told_at_the_start(tiny_task, tmp_path, tool):
    config = tiny_task('segmentation')
    write_masks(tmp_path, 255, 0, 0, 1)
    assert tool('train', config)[0] == 0
    (log,) = tmp_path.glob('run/*/*.log')
    before = log.read_text().partition('Iter(train)')[0]
    shares = '0 ground 50.00%, 1 red 25.00%, 2 blue 0.00%, 255 ignored 25.00%'
    for key in (TRAIN, VAL):
        assert f'{key}: all 4 masks, in pixels: {shares}\n' in before
        assert f"WARNING - {key}: all 4 masks: no pixel of 'blue' (2). They contain {shares}" in before


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


def of_validation(name, change):
    def prepare(data):
        (data / name).write_text(json.dumps(change(json.loads((data / 'val.json').read_text()))))

    return prepare


def renamed(content):
    return {**content, 'images': [{**image, 'file_name': f'x{image["file_name"]}'} for image in content['images']]}


def reversed_(content):
    return {**content, 'categories': content['categories'][::-1]}


def fewer(content):
    return {**content, 'images': content['images'][1:]}


ANN, BEST = 'val_evaluator.ann_file', 'default_hooks.checkpoint.save_best'
EVALUATORS = {  # task, what is made, option, what the message says
    'other images': (
        'detection',
        of_validation('x.json', renamed),
        f'{ANN}=data/x.json',
        f"{ANN}: the id of 'data/val/",
    ),
    'other labels': (
        'detection',
        of_validation('x.json', reversed_),
        f'{ANN}=data/x.json',
        "as 'blue', 'red', but val_",
    ),
    'an image less': (
        'detection',
        of_validation('x.json', fewer),
        f'{ANN}=data/x.json',
        'lacks 1 images of val_dataload',
    ),
    'an unknown item': ('detection', None, 'val_evaluator.metric_items=AP', 'metric item "AP" is not supported'),
    'an unknown IoU': ('segmentation', None, 'val_evaluator.iou_metrics=IoU', "metrics ['IoU'] is not supported"),
    'an unknown best': (
        'segmentation',
        None,
        f'{BEST}=mIou',
        f"{BEST}: the evaluator does not report 'mIou'; it reports",
    ),
}


@pytest.mark.parametrize('task, prepare, option, message', EVALUATORS.values(), ids=EVALUATORS)
def test_an_evaluator_that_would_fail_is_told_before_training(
    tiny_task, tmp_path, tool, task, prepare, option, message
):
    config = tiny_task(task)
    if prepare:
        prepare(tmp_path / 'data')
    if option.startswith(('val_evaluator.metric_items', 'val_evaluator.iou_metrics')):
        option = option.replace('=', '=[') + ']'
    status, err = tool('train', config, '--cfg-options', option)
    assert status == 2
    assert message in err
    assert not [*tmp_path.glob('run/*.pth')]


def test_more_candidates_than_classes_are_told_before_training(flowers, tmp_path, tool):
    status, err = tool('train', flowers, '--cfg-options', 'val_evaluator.topk=1,5')
    assert status == 2
    assert 'val_evaluator: Accuracy refuses its settings for 3 classes: Top-5 accuracy is unavailable' in err
    assert not [*tmp_path.glob('run/*.pth')]
