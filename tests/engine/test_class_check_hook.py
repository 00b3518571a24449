"""ClassCheckHook on stand-ins for the toolboxes' heads and data sets; tests/e2e has the real ones."""

import json
import logging
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from mmfixnorm.engine import ClassCheckHook
from mmfixnorm.errors import ConfigError


class Head(nn.Module):
    def __init__(self, num_classes, **attributes):
        super().__init__()
        self.num_classes = num_classes
        for name, value in attributes.items():
            setattr(self, name, value)

    def loss(self):
        raise AssertionError('heads are looked at, not called')


class RPNHead(Head):
    """By the name of mmdet's."""


class StageCascadeRPNHead(RPNHead):
    pass


class STDCHead(Head):
    """By the name of mmseg's, whose classes are boundary and none."""


def model_of(**heads):
    model = nn.Module()
    for name, head in heads.items():
        model.add_module(name, head)
    return model


class NoLoss(nn.Module):
    num_classes = 80


class Data:
    def __init__(self, *classes, size=3, **attributes):
        self.metainfo = {'classes': classes} if classes else {}
        self.size = size
        vars(self).update(attributes)

    def __len__(self):
        return self.size


def runner_of(model, train=None, val=None, test=None):
    loops = {
        f'{mode}_loop': None if data is None else SimpleNamespace(dataloader=Loader(data))
        for mode, data in (('train', train), ('val', val), ('test', test))
    }
    return SimpleNamespace(model=model, logger=logging.getLogger('class_check'), **loops)


class Loader:
    def __init__(self, dataset, batches=2):
        self.dataset = dataset
        self.batches = batches

    def __len__(self):
        return self.batches


def wrapped(*data):
    """In a RepeatDataset of a ConcatDataset."""
    return SimpleNamespace(dataset=SimpleNamespace(datasets=list(data)))


HEADS = {  # heads, classes of the data, the message or None
    'fits': (dict(bbox_head=Head(2)), ('a', 'b'), None),
    'more': (dict(bbox_head=Head(80)), ('a', 'b'), r"model\.bbox_head\.num_classes: Head has 80 .* has 2: 'a', 'b'"),
    'fewer': (dict(decode_head=Head(1, out_channels=2)), ('a', 'b'), 'Set num_classes=2'),
    'second head': (dict(decode_head=Head(2), auxiliary_head=Head(19)), ('a', 'b'), 'auxiliary_head.*has 19'),
    'region proposals': (dict(rpn_head=Head(1)), ('a', 'b'), None),
    'proposals in stages': (dict(rpn_head=model_of(stages=nn.ModuleList([Head(1)]))), ('a', 'b'), None),
    'proposals in the slot of another head': (dict(bbox_head=StageCascadeRPNHead(1)), ('a', 'b'), None),
    'boundaries': (dict(decode_head=Head(3), auxiliary_head=STDCHead(2)), ('a', 'b', 'c'), None),
    'no loss': (dict(backbone=NoLoss()), ('a', 'b'), None),
    'one output for two classes': (dict(decode_head=Head(2, out_channels=1)), ('a', 'b'), None),
    'one output, one class': (dict(decode_head=Head(1, out_channels=1)), ('a', 'b'), None),
    'one output for three': (dict(decode_head=Head(2, out_channels=1)), ('a', 'b', 'c'), 'has 2 classes.*has 3'),
    'data that do not say': (dict(head=Head(5)), (), None),
}


def test_a_head_of_panoptic_data_has_all_classes_or_the_countable_ones():
    data = Data('cat', 'dog', 'sky')
    data.metainfo['thing_classes'] = ('cat', 'dog')
    for classes in (2, 3):
        ClassCheckHook().before_train(runner_of(model_of(bbox_head=Head(classes)), train=data))
    with pytest.raises(ConfigError, match="Head has 1 classes.* has 3: 'cat', 'dog', 'sky'"):
        ClassCheckHook().before_train(runner_of(model_of(bbox_head=Head(1)), train=data))


class BaseVideoDataset(Data):
    """By the name of mmdet's."""


def test_a_tracker_has_fewer_classes_than_its_videos():
    tracker = model_of(bbox_head=Head(1))
    ClassCheckHook().before_train(runner_of(tracker, train=BaseVideoDataset('pedestrian', 'car')))


@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
@pytest.mark.parametrize('heads, classes, message', HEADS.values(), ids=HEADS)
def test_heads_have_the_classes_of_the_data(heads, classes, message, mode):
    runner = runner_of(model_of(**heads), **{mode: Data(*classes)})
    check = getattr(ClassCheckHook(), f'before_{mode}')
    if message is None:
        check(runner)
    else:
        with pytest.raises(ConfigError, match=message) as err:
            check(runner)
        assert f'{mode}_dataloader.dataset.metainfo.classes' in str(err.value)


@pytest.mark.parametrize('prefix', ['', 'student.'])
def test_heads_that_classify_by_text_are_not_compared(prefix):
    detector = model_of(language_model=nn.Module(), bbox_head=Head(256))
    model = model_of(student=detector, semi=Head(2)) if prefix else detector
    ClassCheckHook().before_train(runner_of(model, train=Data('a', 'b')))
    del detector.language_model
    with pytest.raises(ConfigError, match=rf'model\.{prefix}bbox_head\.num_classes: Head has 256'):
        ClassCheckHook().before_train(runner_of(model, train=Data('a', 'b')))


def test_training_looks_at_the_validation_data_too():
    runner = runner_of(model_of(head=Head(2)), train=Data('a', 'b'), val=Data('a', 'b', 'c'))
    with pytest.raises(ConfigError, match=r'val_dataloader\.dataset .*has 3'):
        ClassCheckHook().before_train(runner)


def test_each_data_set_inside_wrappers_is_looked_at_by_its_own_key():
    data = wrapped(Data('a', 'b'), Data('a', 'b', 'c'))
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset\.dataset\.datasets\.1'):
        ClassCheckHook().before_train(runner_of(model_of(head=Head(2)), train=data))


def test_the_model_inside_a_wrapper_of_distributed_training_is_looked_at():
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model_of(bbox_head=Head(80))
    with pytest.raises(ConfigError, match=r'model\.bbox_head\.num_classes'):
        ClassCheckHook().before_train(runner_of(wrapper, train=Data('a', 'b')))


def test_a_string_of_classes_is_refused_with_the_comma_that_is_missing():
    data = Data(size=3)
    data.metainfo = {'classes': 'cell'}
    with pytest.raises(ConfigError, match=r"got the string 'cell'.*\('cell',\)"):
        ClassCheckHook().before_train(runner_of(model_of(head=Head(1)), train=data))


def test_an_empty_data_set_is_refused():
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset: no image is left'):
        ClassCheckHook().before_train(runner_of(model_of(head=Head(2)), train=Data('a', 'b', size=0)))


def coco_data(tmp_path, in_file, classes, **attributes):
    """What mmdet's data set knows of a file: the ids of the categories that are classes, with boxes of all."""
    content = dict(images=[], annotations=[], categories=[dict(id=i, name=n) for i, n in enumerate(in_file)])
    file = tmp_path / 'instances.json'
    file.write_text(json.dumps(content))
    ids = [i for i, name in enumerate(in_file) if name in classes]
    boxes = {i: [0] for i in range(len(in_file))}
    return Data(*classes, ann_file=str(file), cat_ids=ids, cat_img_map=boxes, **attributes)


def test_a_category_that_the_annotation_file_lacks_is_named_with_those_found(tmp_path):
    data = coco_data(tmp_path, ['RBC', 'WBC'], ('WBC', 'Platelets'))
    with pytest.raises(ConfigError, match=r"dataset\.ann_file: .*lacks 1 of the 2 .*: 'Platelets'\. .* 'RBC', 'WBC'"):
        ClassCheckHook().before_train(runner_of(model_of(head=Head(2)), train=data))


MISNUMBERED = {  # categories in the file, classes, the message
    'twice': (
        ['RBC', 'WBC', 'RBC'],
        ('RBC', 'WBC'),
        r"more than one category of the name 'RBC' \(ids {'RBC': \[0, 2\]}\)",
    ),
    'other order': (['WBC', 'RBC'], ('RBC', 'WBC'), r"label 0 is 'WBC' in .* but 'RBC' .*classes=\('WBC', 'RBC'\)"),
}


@pytest.mark.parametrize('in_file, classes, message', MISNUMBERED.values(), ids=MISNUMBERED)
def test_categories_that_take_the_label_of_another_are_refused(tmp_path, in_file, classes, message):
    data = coco_data(tmp_path, in_file, classes)
    with pytest.raises(ConfigError, match=rf'val_dataloader\.dataset\.ann_file: .*{message}'):
        ClassCheckHook().before_val(runner_of(model_of(head=Head(2)), val=data))


RELABELLED = {  # classes of two data sets, the message, whether they are refused
    'swapped': (('a', 'b'), ('b', 'a'), r"class 'b' has the label 0, but 1 in train_dataloader\.dataset\.", True),
    'shifted by a folder': (('.git', 'a'), ('a', 'b'), "class 'a' has the label 0, but 1 .*'.git' looks like no", True),
    'once more': (('a', 'a'), ('a', 'b'), "class 'a' has the label 0, but 0 and 1", True),
    'twice in both': (('crane', 'crane'), ('crane', 'crane'), '', False),
    'renamed': (('a', 'b'), ('A', 'B'), "label 0 is 'A', but 'a' in train_dataloader", False),
}


@pytest.mark.parametrize('mode', ['train', 'val'])
@pytest.mark.parametrize('first, second, message, refused', RELABELLED.values(), ids=RELABELLED)
def test_a_label_is_one_class_in_all_data_sets(first, second, message, refused, mode, caplog):
    sets = dict(train=wrapped(Data(*first), Data(*second))) if mode == 'train' else {}
    runner = runner_of(model_of(head=Head(2)), **(sets or dict(train=Data(*first), val=wrapped(Data(*second)))))
    if refused:
        with pytest.raises(ConfigError, match=message):
            ClassCheckHook().before_train(runner)
        return
    with caplog.at_level('WARNING'):
        ClassCheckHook().before_train(runner)
    assert re.findall(message, caplog.text) if message else not caplog.records


@pytest.mark.parametrize('moment', ['before_test', 'before_val', 'before_train'])
def test_the_classes_of_a_checkpoint_are_those_of_the_data(moment):
    hook = ClassCheckHook()
    hook.after_load_checkpoint(None, dict(meta=dict(dataset_meta=dict(classes=('b', 'a')))))
    runner = runner_of(model_of(head=Head(2)), **{moment.partition('_')[2]: Data('a', 'b')})
    if moment == 'before_train':
        hook.before_train(runner)  # from the weights alone: other classes are its purpose
        hook, runner._resume = ClassCheckHook(), True
        hook.after_load_checkpoint(None, dict(meta=dict(dataset_meta=dict(classes=('b', 'a')))))
    with pytest.raises(ConfigError, match="class 'a' has the label 0, but 1 in the training data of the checkpoint"):
        getattr(hook, moment)(runner)


def test_the_meta_of_other_checkpoints_is_not_needed():
    for checkpoint in ({}, dict(meta=None), dict(meta=dict(dataset_meta=None)), dict(meta=dict(dataset_meta=dict()))):
        hook = ClassCheckHook()
        hook.after_load_checkpoint(None, checkpoint)
        hook.before_test(runner_of(model_of(head=Head(2)), test=Data('a', 'b')))


LABELS = {  # what a data set knows of one image, the largest label; the head has 3 classes
    'class': (dict(gt_label=3), 3),
    'several classes': (dict(gt_label=[0, 5]), 5),
    'boxes': (dict(instances=[dict(bbox_label=2), dict(bbox_label=4)]), 4),
    'as many as classes': (dict(gt_label=2), None),
    'a number': (dict(gt_label=7.5), None),
    'none': (dict(img='x'), None),
}


@pytest.mark.parametrize('info, largest', LABELS.values(), ids=LABELS)
def test_labels_of_images_and_boxes_are_below_the_classes(info, largest):
    data = Data(size=200)
    data.get_data_info = lambda i: dict(info, img_path='odd.jpg') if i == 199 else dict.fromkeys(info, ())
    if largest is None:
        ClassCheckHook().before_val(runner_of(model_of(head=Head(3)), val=data))
        return
    with pytest.raises(
        ConfigError, match=rf'labels are 0 to 2, but val_dataloader\.dataset has .* {largest} \(odd\.jpg'
    ):
        ClassCheckHook().before_val(runner_of(model_of(head=Head(3)), val=data))


def test_categories_that_are_not_used_give_one_warning(tmp_path, caplog):
    data = coco_data(tmp_path, ['RBC', 'WBC', 'Platelets'], ('RBC', 'WBC'))
    hook, runner = ClassCheckHook(), runner_of(model_of(head=Head(2)), val=data)
    with caplog.at_level('WARNING'):
        hook.before_val(runner)
        hook.before_val(runner)
    assert ['1 categories of' in record.message for record in caplog.records] == [True]


def batch_of(*labels, dtype=torch.long):
    sample = BaseDataElement(metainfo=dict(img_path='img/1.jpg', seg_map_path='ann/1.png'))
    sample.gt_sem_seg = PixelData(data=torch.tensor(labels, dtype=dtype).reshape(1, 1, -1))
    return dict(inputs=[None], data_samples=[sample])


MASKS = {  # num_classes, out_channels, ignore_index, labels, beyond in training, beyond in validation
    'below': (3, 3, 255, (0, 1, 2, 255), (), ()),
    'beyond': (3, 3, 255, (0, 3, 7, 255), (3, 7), (3, 7)),
    'other ignored label': (3, 3, 7, (0, 7), (), ()),
    'void of the data under another ignored label': (3, 3, 7, (0, 255), (255,), ()),
    'binary': (2, 1, 255, (0, 1, 255), (), ()),
    'binary, beyond': (2, 1, 255, (0, 2), (2,), (2,)),
    'one class, one output': (1, 1, 255, (0, 1), (), ()),
    'negative': (3, 3, 255, (-1, 0), (-1,), (-1,)),
}


@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
@pytest.mark.parametrize('num_classes, channels, ignored, labels, in_train, in_val', MASKS.values(), ids=MASKS)
def test_labels_of_masks_are_below_the_classes(num_classes, channels, ignored, labels, in_train, in_val, mode):
    head = Head(num_classes, out_channels=channels, ignore_index=ignored)
    hook, runner = ClassCheckHook(), runner_of(model_of(decode_head=head), **{mode: Data()})
    getattr(hook, f'before_{mode}')(runner)
    look = getattr(hook, f'before_{mode}_iter')
    beyond = in_train if mode == 'train' else in_val
    if not beyond:
        look(runner, 0, batch_of(*labels))
        return
    with pytest.raises(ConfigError, match='reduce_zero_label') as err:
        look(runner, 0, batch_of(*labels))
    assert str(err.value).startswith('ann/1.png: ')
    assert f'found {", ".join(map(repr, beyond))}. Set num_classes' in str(err.value)


def test_masks_of_bytes_are_looked_at_as_well():
    hook = ClassCheckHook()
    head = Head(3, out_channels=3, ignore_index=255)
    hook.before_train(runner := runner_of(model_of(decode_head=head), train=Data()))
    hook.before_train_iter(runner, 0, batch_of(0, 255, dtype=torch.uint8))
    with pytest.raises(ConfigError, match='found 9'):
        hook.before_train_iter(runner, 0, batch_of(0, 9, dtype=torch.uint8))


@pytest.mark.parametrize('batch', [None, [1, 2], {'data_samples': [BaseDataElement()]}, {'inputs': 3}])
def test_batches_without_masks_pass(batch):
    hook = ClassCheckHook()
    head = Head(3, out_channels=3, ignore_index=255)
    hook.before_train(runner := runner_of(model_of(decode_head=head), train=Data()))
    hook.before_train_iter(runner, 0, batch)


def test_the_mode_of_a_validation_inside_training_does_not_change_that_of_the_next_batch():
    head = Head(3, out_channels=3, ignore_index=7)
    hook, runner = ClassCheckHook(), runner_of(model_of(decode_head=head), train=Data(), val=Data())
    hook.before_train(runner)
    hook.before_val(runner)
    hook.before_val_iter(runner, 0, batch_of(0, 255))
    with pytest.raises(ConfigError, match='found 255'):
        hook.before_train_iter(runner, 1, batch_of(0, 255))


class CountedBatch(dict):
    """Counts how often its masks are asked for."""

    asked = 0

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)


@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
def test_masks_are_counted_in_the_first_pass_alone(mode):
    hook = ClassCheckHook()
    runner = runner_of(model_of(decode_head=Head(3, out_channels=3, ignore_index=255)), **{mode: Data()})
    batch = CountedBatch(batch_of(0, 1))
    for _ in range(3):  # epochs; a loop by iterations calls before_train once and counts on
        if mode != 'train' or not batch.asked:
            getattr(hook, f'before_{mode}')(runner)
        for i in range(2):
            getattr(hook, f'before_{mode}_iter')(runner, i, batch)
    assert batch.asked == 2
