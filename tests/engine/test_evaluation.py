"""What evaluators are asked before a run, against what they report after a real one."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import ValLoop
from mmpretrain.evaluation import Accuracy, AveragePrecision, ConfusionMatrix, MultiLabelMetric, SingleLabelMetric
from mmseg.evaluation import IoUMetric
from torch import nn

from mmfixnorm.engine.evaluation import check_evaluation
from mmfixnorm.errors import ConfigError

CLASSES = ('a', 'b', 'c')


class Head(nn.Module):
    num_classes = len(CLASSES)

    def loss(self):
        raise AssertionError('heads are looked at, not called')


def runner_of(*metrics, hooks=(), loop=ValLoop):
    model = nn.Module()
    model.head = Head()
    evaluator = Evaluator(list(metrics))
    evaluator.dataset_meta = dict(classes=CLASSES)
    val_loop = loop.__new__(loop)
    vars(val_loop).update(dataloader=SimpleNamespace(dataset=None), evaluator=evaluator)
    cfg = Config(dict(val_evaluator=[dict(type=type(m).__name__) for m in metrics]))
    return SimpleNamespace(model=model, cfg=cfg, hooks=hooks, val_loop=val_loop)


def classified():
    draw = torch.Generator().manual_seed(0)
    for label in (0, 1, 2, 2):
        scores = torch.rand(3, generator=draw).softmax(0)
        yield dict(pred_score=scores, gt_label=torch.tensor([label]), num_classes=3)


def segmented():
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        pair = torch.randint(3, (2, 1, 8, 8), generator=draw)
        yield dict(pred_sem_seg=dict(data=pair[0]), gt_sem_seg=dict(data=pair[1]), img_path='1.jpg')


METRICS = {
    'top1': (lambda: Accuracy(topk=(1,)), classified),
    'top1 and top2': (lambda: Accuracy(topk=(1, 2), prefix='mine'), classified),
    'thresholds': (lambda: Accuracy(topk=(1, 3), thrs=(0.1, None)), classified),
    'precision': (lambda: SingleLabelMetric(items=('precision', 'f1-score')), classified),
    'of each class': (lambda: SingleLabelMetric(average=None), classified),
    'confusions': (ConfusionMatrix, classified),
    'several labels': (lambda: MultiLabelMetric(topk=2, average='micro'), classified),
    'average precision': (AveragePrecision, classified),
    'IoU': (IoUMetric, segmented),
    'Dice and F': (lambda: IoUMetric(iou_metrics=['mDice', 'mFscore'], prefix='seg'), segmented),
}


@pytest.mark.parametrize('make, samples', METRICS.values(), ids=METRICS)
def test_the_names_are_those_that_an_evaluation_reports(make, samples, capsys, caplog):
    asked, evaluated = make(), Evaluator([make()])
    capsys.readouterr(), caplog.clear()
    names = check_evaluation(runner_of(asked), 'val')
    assert asked.results == []
    assert capsys.readouterr().out == caplog.text == ''
    evaluated.dataset_meta = dict(classes=CLASSES)
    batch = list(samples())
    evaluated.process(batch, batch)
    assert names == set(evaluated.evaluate(len(batch)))


COCO = {  # settings, the names that mmdet documents
    'boxes': (dict(), {f'coco/bbox_mAP{x}' for x in ('', '_50', '_75', '_s', '_m', '_l')}),
    'some of them': (dict(metric_items=['mAP_50']), {'coco/bbox_mAP_50'}),
    'masks too': (dict(metric=['bbox', 'segm'], metric_items=['mAP']), {'coco/bbox_mAP', 'coco/segm_mAP'}),
    'each class': (
        dict(classwise=True, metric_items=['mAP']),
        {'coco/bbox_mAP', 'coco/a_precision', 'coco/b_precision', 'coco/c_precision'},
    ),
    'proposals': (dict(metric='proposal_fast', proposal_nums=(10, 20)), {'coco/AR@10', 'coco/AR@20'}),
}


@pytest.mark.parametrize('settings, names', COCO.values(), ids=COCO)
def test_the_names_of_coco_are_the_documented_ones(settings, names, capsys):
    assert check_evaluation(runner_of(CocoMetric(**settings)), 'val') == names
    assert capsys.readouterr().out == ''


REFUSED = {
    'topk': (lambda: Accuracy(topk=(1, 5)), r'val_evaluator\.1: Accuracy .* 3 classes: Top-5 accuracy is unavailable'),
    'IoU': (lambda: IoUMetric(iou_metrics=['mIou']), r"IoUMetric refuses .*metrics \['mIou'\] is not supported"),
    'COCO': (lambda: CocoMetric(metric_items=['AP']), 'CocoMetric refuses .*metric item "AP" is not supported'),
}


@pytest.mark.parametrize('make, message', REFUSED.values(), ids=REFUSED)
def test_settings_that_fail_at_the_first_validation_are_told(make, message):
    with pytest.raises(ConfigError, match=message):
        check_evaluation(runner_of(Accuracy(topk=1), make()), 'val')


class Own(BaseMetric):
    def process(self, data_batch, data_samples):
        raise AssertionError('not asked')

    compute_metrics = process


class OwnAccuracy(Accuracy):
    def process(self, data_batch, data_samples):
        raise AssertionError('not asked')


class OwnLoop(ValLoop):
    """May report something else."""


@pytest.mark.parametrize('metric', [Own, OwnAccuracy, lambda: IoUMetric(format_only=True, output_dir='masks')])
def test_metrics_of_others_are_not_asked(metric, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_evaluation(runner_of(Accuracy(), metric()), 'val') is None
    assert check_evaluation(runner_of(Accuracy(), loop=OwnLoop), 'val') is None
    assert [*tmp_path.rglob('*.png')] == []
