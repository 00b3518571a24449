"""Which file of a config is blamed for an error, and which is not."""

import json

import mmdet.datasets  # noqa: F401  # registers the data sets
import pytest
from mmengine.config import Config

from mmfixnorm.data_checks.explain import explain_failure
from mmfixnorm.errors import ConfigError

TYPO = KeyError('Typo is not in the transform registry')
PANOPTIC = dict(
    images=[dict(id=1, file_name='0.png', width=4, height=4)],
    annotations=[dict(image_id=1, file_name='0.png', segments_info=[])],
    categories=[dict(id=1, name='cell', isthing=1)],
)
UNLABELLED = {key: value for key, value in PANOPTIC.items() if key != 'annotations'}


def config(folder, content, dataset, metric, mode):
    (folder / 'ann.json').write_text(json.dumps(content))
    file = str(folder / 'ann.json')
    data = dict(type=f'mmdet.{dataset}', ann_file=file, metainfo=dict(classes=('cell',)))
    return Config({f'{mode}_dataloader': dict(dataset=data), f'{mode}_evaluator': dict(type=metric, ann_file=file)})


@pytest.mark.parametrize(
    ('content', 'dataset', 'metric', 'mode', 'message'),
    [
        (PANOPTIC, 'CocoPanopticDataset', 'CocoPanopticMetric', 'val', ''),
        (UNLABELLED, 'CocoDataset', 'CocoMetric', 'test', ''),
        (UNLABELLED, 'CocoDataset', 'CocoMetric', 'val', r"val_dataloader\..*there is no 'annotations'"),
        (PANOPTIC, 'CocoDataset', 'CocoMetric', 'val', r"annotations\[0\] lacks 'id', 'category_id'"),
        ([1], 'CocoPanopticDataset', 'CocoMetric', 'test', r'test_evaluator\.ann_file: .*a JSON list'),
    ],
)  # fmt: skip
def test_a_file_is_blamed_only_where_it_must_be_of_coco(tmp_path, content, dataset, metric, mode, message):
    cfg = config(tmp_path, content, dataset, metric, mode)
    if not message:
        explain_failure(TYPO, cfg, mode)  # returns, so that the typo is told
        return
    with pytest.raises(ConfigError, match=message):
        explain_failure(TYPO, cfg, mode)
