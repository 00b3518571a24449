"""Counts of parameters and multiply-adds against those done by hand."""

import pytest
from mmengine.config import Config, ConfigDict

from mmfixnorm.cls.complexity import count_complexity, evaluation_image_size
from mmfixnorm.errors import ConfigError


@pytest.mark.parametrize('colours', [1, 3])
def test_a_small_residual_network_is_counted_as_by_hand(colours):
    """ThinResNetCIFAR(8) with 8 channels on 32 x 32 pixels and 10 classes, FixNorm head."""
    cfg = ConfigDict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.ThinResNetCIFAR', depth=8, base_channels=8, in_channels=colours),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.FixNormLinearClsHead', num_classes=10, in_channels=32, alpha=1.0),
    )
    stem, first = 9 * colours * 8, 2 * 9 * 8 * 8
    second = 9 * 8 * 16 + 9 * 16 * 16 + 8 * 16
    third = 9 * 16 * 32 + 9 * 32 * 32 + 16 * 32
    norms = 2 * (8 + 2 * 8 + 3 * 16 + 3 * 32)
    found = count_complexity(cfg, 32)
    assert found.params == stem + first + second + third + norms + 320 + 10 + 1
    assert found.macs == 1024 * (stem + first) + 256 * second + 64 * third + 320


def test_the_image_size_is_that_of_the_test_pipeline_s_crop():
    pipeline = [dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)]
    assert evaluation_image_size(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))) == 224
    for crop, message in (((224, 224), ''), ([224, 192], 'must be square')):
        pipeline[1].update(crop_size=crop)
        cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
        if not message:
            assert evaluation_image_size(cfg) == 224
        else:
            with pytest.raises(ConfigError, match=message):
                evaluation_image_size(cfg)
    with pytest.raises(ConfigError, match='crop_size'):
        evaluation_image_size(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline[:1])))))
