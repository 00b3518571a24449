"""Labels of real data sets of mmpretrain and mmdet, built from files on the disk."""

import json
import random

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset
from PIL import Image

from mmfixnorm.data_checks.coco import read_categories
from mmfixnorm.data_checks.datasets import check_annotations
from mmfixnorm.data_checks.labels import class_folders, label_names, largest_label, remark_on_folders, stray_folders
from mmfixnorm.errors import ConfigError


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Makes class folders with an image each; a name that ends in - gets none."""

    def make(*names):
        for name in names:
            (tmp_path / name.rstrip('-')).mkdir()
            if not name.endswith('-'):
                write_image(tmp_path / name / '0.png')
        return str(tmp_path)

    return make


def test_folders_that_are_no_classes_are_named(folders):
    data = CustomDataset(data_root=folders('.ipynb_checkpoints-', '@eaDir', 'bee', 'ant', 'cow-'))
    assert class_folders(data) == ('.ipynb_checkpoints', '@eaDir', 'ant', 'bee', 'cow')
    assert stray_folders(class_folders(data)) == ['.ipynb_checkpoints', '@eaDir']
    remark = remark_on_folders(data)
    assert remark.startswith(f" Delete '.ipynb_checkpoints', '@eaDir' in {data.img_prefix!r}")
    assert remark.endswith(f" No image is in 'cow' in {data.img_prefix!r}.")
    # What this package cannot change: mmpretrain does count them, so that the ants are class 2.
    assert [info['gt_label'] for info in map(data.get_data_info, range(3))] == [1, 2, 3]


def test_usual_folders_get_no_remark(folders):
    data = CustomDataset(data_root=folders('ant', 'bee'))
    assert remark_on_folders(data) == ''
    assert label_names(data, 'train').names == ('ant', 'bee')


@pytest.mark.parametrize('classes', [('bee', 'ant'), ('Ameise', 'Biene')])
def test_classes_in_another_order_than_their_folders_are_refused(folders, classes):
    data = CustomDataset(data_root=folders('ant', 'bee'), metainfo=dict(classes=classes))
    if classes[0] == 'Ameise':  # names of one's own
        assert label_names(data, 'train').names == classes
        return
    with pytest.raises(ConfigError, match=r"train\.metainfo\.classes: is 'bee', 'ant', but .*folders.*: 'ant', 'bee'"):
        label_names(data, 'train')


def test_labels_of_an_annotation_file_are_read(tmp_path):
    (tmp_path / 'list.txt').write_text('a.png 0\nb.png 3\nc.png 1\n')
    data = CustomDataset(ann_file=str(tmp_path / 'list.txt'))
    assert largest_label(data) == (3, 'b.png')
    assert label_names(data, 'train') is None


BOX = dict(image_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0)


def write_coco(path, categories, **more):
    boxes = [dict(BOX, id=i, category_id=category['id']) for i, category in enumerate(categories, 1)]
    image = dict(id=1, file_name='0.png', width=4, height=4)
    path.write_text(json.dumps(dict(**more, images=[image], annotations=boxes, categories=categories)))
    return str(path)


CATEGORIES = {  # names in the file, classes, the class that each box gets, whether that is refused
    'as in the file': (['ant', 'bee'], ('ant', 'bee'), ['ant', 'bee'], False),
    'some of the file': (['ant', 'cow', 'bee'], ('ant', 'bee'), ['ant', 'bee'], False),
    'another order': (['bee', 'ant'], ('ant', 'bee'), ['ant', 'bee'], True),
    'one twice': (['ant', 'ant', 'bee'], ('ant', 'bee'), ['ant', 'bee', 'background'], True),
}


@pytest.mark.parametrize('names, classes, trained, refused', CATEGORIES.values(), ids=CATEGORIES)
def test_boxes_that_train_another_class_are_refused(tmp_path, names, classes, trained, refused):
    file = write_coco(tmp_path / 'ann.json', [dict(id=5 + i, name=name) for i, name in enumerate(names)])
    data = CocoDataset(ann_file=file, data_prefix=dict(img=''), metainfo=dict(classes=classes))
    instances = data.get_data_info(0)['instances']
    assert [(*classes, 'background')[i['bbox_label']] for i in instances] == trained  # what mmdet would train
    assert (trained != [name for name in names if name in classes]) == refused
    if refused:
        with pytest.raises(ConfigError, match=r'train\.ann_file: .*(more than one category|label 0 is)'):
            check_annotations(data, 'train')
    else:
        assert check_annotations(data, 'train') == len(names) - len(classes)


def test_names_of_categories_that_are_numbers_are_refused_as_mmdet_uses_none_of_them(tmp_path):
    file = write_coco(tmp_path / 'ann.json', [dict(id=1, name=3), dict(id=2, name='bee')])
    data = CocoDataset(ann_file=file, data_prefix=dict(img=''), metainfo=dict(classes=('3', 'bee')))
    assert [i['bbox_label'] for i in data.get_data_info(0)['instances']] == [0]  # the bee, which is 1
    with pytest.raises(ConfigError, match=r"lacks 1 of the 2 classes .*: '3'\..* 3, 'bee'; 3 is no string"):
        check_annotations(data, 'train')


@pytest.mark.parametrize('indent', [None, 2])
@pytest.mark.parametrize('first', [True, False])
def test_categories_are_those_that_the_whole_file_has(tmp_path, indent, first):
    draw = random.Random(0)
    categories = [dict(id=i, name=f'ß{draw.random()}' * 40, keypoints=['a]', '}']) for i in range(3000)]
    rest = dict(info='the "categories": [1]', images=[], annotations=[dict(BOX, id=1, category_id=0, note='ü' * 9)])
    content = dict(categories=categories, **rest) if first else dict(**rest, categories=categories)
    file = tmp_path / 'ann.json'
    file.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding='utf-8')
    assert file.stat().st_size > 2**20  # more than is read at a time
    assert read_categories(str(file), 'key') == categories


@pytest.mark.parametrize('content', ['{"images": []}', '{"categories": [{"id": 1}]}', '{"categories": [', '[1]'])
def test_a_file_without_categories_is_told_as_no_coco_file(tmp_path, content):
    file = tmp_path / 'ann.json'
    file.write_text(content)
    with pytest.raises(ConfigError, match=r'key: .*(a COCO file is|lacks)'):
        read_categories(str(file), 'key')
