import pytest
import torch
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import mmfixnorm.cls  # noqa: F401
from mmfixnorm.core import FixNormLinear, WNLinear

HEADS = {
    'wn': (dict(type='WNLinearClsHead'), WNLinear),
    'fixnorm': (dict(type='FixNormLinearClsHead', alpha=100.0), FixNormLinear),
}
heads = pytest.mark.parametrize('cfg, layer', HEADS.values(), ids=HEADS)


@heads
def test_loss_and_prediction_equal_the_stock_heads_below_the_bound(cfg, layer):
    stock = LinearClsHead(5, 8, topk=(1, 3), cal_acc=True)
    stock.init_weights()
    head = MODELS.build(dict(cfg, num_classes=5, in_channels=8, topk=(1, 3), cal_acc=True))
    assert type(head.fc) is layer
    head.load_state_dict(stock.state_dict())
    feats = (torch.randn(6, 8),)
    samples = [DataSample().set_gt_label(i % 5) for i in range(6)]
    expected, actual = stock.loss(feats, samples), head.loss(feats, samples)
    assert expected.keys() == actual.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key])
    torch.testing.assert_close(
        torch.stack([s.pred_score for s in head.predict(feats)]),
        torch.stack([s.pred_score for s in stock.predict(feats)]),
    )


@heads
def test_weights_get_the_stock_heads_init_and_the_scale_follows(cfg, layer):
    head = MODELS.build(dict(cfg, num_classes=100, in_channels=400))
    head.init_weights()
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.fc.bias.abs().max() == 0
    assert head.fc.g.item() == pytest.approx(head.fc.weight.norm().item(), rel=1e-6)


def test_alpha_is_what_the_layer_uses():
    head = MODELS.build(dict(type='FixNormLinearClsHead', num_classes=4, in_channels=8, alpha=0.5))
    assert head.alpha == head.fc.alpha == 0.5
    assert head.fc.scale_bound == 1.0


def test_alpha_has_no_default():
    with pytest.raises(TypeError, match='alpha'):
        MODELS.build(dict(type='FixNormLinearClsHead', num_classes=4, in_channels=8))
