"""Validation on COCO and Cityscapes: the ground truth as a prediction is perfect, under the name a search asks for."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.runner import Runner

CONFIGS = Path(__file__).parents[2] / 'configs'
RETINANET = CONFIGS / 'coco/retinanet_r50-fpn_fixnorm_8xb2-cosine-90k_coco.py'
BASE_OC = CONFIGS / 'cityscapes/base-oc_r101-d8_fixnorm_4xb2-cosine-40k_cityscapes-769x769.py'


@pytest.fixture
def coco(load, real_data):
    cfg = load(RETINANET)
    root = f'{real_data}/coco128/'
    cfg.val_dataloader.dataset.data_root = root
    cfg.val_evaluator.ann_file = f'{root}annotations/instances_val2017.json'
    return cfg


@pytest.fixture
def cityscapes(load, real_data):
    cfg = load(BASE_OC)
    cfg.val_dataloader.dataset.data_root = f'{real_data}/cityscapes8/'
    return cfg


def test_coco_ground_truth_has_ap_1(coco):
    dataset = DATASETS.build(coco.val_dataloader.dataset)
    metric = Runner.build_evaluator(None, coco.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    samples = []
    for info in infos:
        boxes = [o for o in info['instances'] if not o['ignore_flag']]
        found = dict(
            bboxes=torch.tensor([o['bbox'] for o in boxes]).reshape(-1, 4),
            labels=torch.tensor([o['bbox_label'] for o in boxes], dtype=torch.long),
            scores=torch.ones(len(boxes)),
        )
        shape = (info['height'], info['width'])
        samples.append(dict(pred_instances=found, img_id=info['img_id'], ori_shape=shape))
    metric.process(samples, {})
    assert metric.evaluate(len(dataset))[coco.search.metric] == pytest.approx(1.0, abs=0.01)


def test_cityscapes_ground_truth_has_miou_100(cityscapes):
    dataset = DATASETS.build(cityscapes.val_dataloader.dataset)
    metric = Runner.build_evaluator(None, cityscapes.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples']
        assert sample.img_shape == (1025, 2049)
        assert sample.ori_shape == sample.gt_sem_seg.shape == (1024, 2048)
        metric.process([dict(gt_sem_seg=sample.gt_sem_seg.to_dict(), pred_sem_seg=sample.gt_sem_seg.to_dict())], {})
    assert len(dataset) == 2
    assert metric.evaluate(len(dataset))[cityscapes.search.metric] == pytest.approx(100.0)


def test_a_coco_image_is_seen_at_scale_800_and_judged_at_its_own(coco):
    dataset = DATASETS.build(coco.val_dataloader.dataset)
    image, sample = (dataset[0][key] for key in ('inputs', 'data_samples'))
    assert min(image.shape[1:]) == 800 or max(image.shape[1:]) == 1333
    height, width = sample.ori_shape
    boxes = (
        sample.gt_instances.bboxes.tensor
        if hasattr(sample.gt_instances.bboxes, 'tensor')
        else sample.gt_instances.bboxes
    )
    assert len(boxes)
    assert (boxes[:, 2::2] <= width + 1).all()
    assert (boxes[:, 3::2] <= height + 1).all()
