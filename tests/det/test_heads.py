import copy
import math

import pytest
import torch
from mmdet.models.dense_heads import ATSSHead, FCOSHead, RetinaHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmfixnorm.core import FixNormConv2d, WNConv2d, fill_scales, norm_fixing_parameters
from mmfixnorm.det import FixNormDenseHeadMixin, FixNormFCOSHead, FixNormRetinaHead, WNRetinaHead

CLASSES, CHANNELS = 5, 16
ANCHORS = dict(
    type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=[8, 16]
)
CODER = dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0, 1.0, 1.0, 1.0])
TRAIN_CFG = ConfigDict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
    sampler=dict(type='PseudoSampler'),
    allowed_border=-1,
    pos_weight=-1,
)
RETINA = dict(
    num_classes=CLASSES,
    in_channels=CHANNELS,
    feat_channels=CHANNELS,
    stacked_convs=2,
    anchor_generator=ANCHORS,
    bbox_coder=CODER,
    loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
    loss_bbox=dict(type='SmoothL1Loss', beta=0.11),
    train_cfg=TRAIN_CFG,
)
FCOS = dict(
    num_classes=CLASSES,
    in_channels=CHANNELS,
    feat_channels=CHANNELS,
    stacked_convs=1,
    strides=[8, 16],
    regress_ranges=((-1, 64), (64, 1e8)),
    norm_cfg=dict(type='GN', num_groups=4),
)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet')


def built(kind, seed=0, **cfg):
    torch.manual_seed(seed)
    head = MODELS.build(dict(type=kind, **copy.deepcopy(cfg)))
    head.init_weights()
    fill_scales(head)
    return head


def features(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, CHANNELS, size, size, generator=generator) for size in (8, 4)]


def losses(head, outputs):
    truth = InstanceData(
        bboxes=torch.tensor([[4.0, 4.0, 40.0, 36.0], [20.0, 10.0, 60.0, 60.0]]), labels=torch.tensor([1, 4])
    )
    metas = [dict(img_shape=(64, 64), pad_shape=(64, 64))] * 2
    return head.loss_by_feat(*outputs, [truth, copy.deepcopy(truth)], metas)


PAIRS = {
    'retina': ('FixNormRetinaHead', RetinaHead, RETINA),
    'wn_retina': ('WNRetinaHead', RetinaHead, RETINA),
    'fcos': ('FixNormFCOSHead', FCOSHead, FCOS),
}


@pytest.mark.parametrize(('kind', 'stock', 'cfg'), PAIRS.values(), ids=PAIRS)
def test_same_seed_gives_the_stock_heads_outputs_and_losses_below_the_bound(kind, stock, cfg):
    alpha = {} if kind == 'WNRetinaHead' else dict(alpha=100.0)
    ours, theirs = built(kind, **cfg, **alpha), built(stock, **cfg)
    x = features()
    for mine, reference in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, reference)
    torch.testing.assert_close(losses(ours, ours(x)), losses(theirs, theirs(x)))


@pytest.mark.parametrize('kind, convs', [('FixNormRetinaHead', RETINA), ('FixNormFCOSHead', FCOS)])
def test_a_bound_in_force_scales_the_scores_and_nothing_else(kind, convs):
    free, bounded = built(kind, alpha=100.0, **convs), built(kind, alpha=0.01, **convs)
    # In float64: next to a bias of -4.6 the scores in float32 have errors of the size of the tolerance.
    x = tuple(level.double() for level in features())
    ours, reference = bounded.double()(x), free.double()(x)
    conv = getattr(bounded, bounded.score_convs[0])
    assert conv.g.item() > conv.scale_bound == pytest.approx(0.01 * math.sqrt(conv.out_channels))
    factor = conv.scale_bound / conv.weight.double().norm()
    for mine, theirs in zip(ours[0], reference[0], strict=True):
        bias = conv.bias[:, None, None].double()
        torch.testing.assert_close((mine - bias).float(), ((theirs - bias) * factor).float(), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(ours[1:], reference[1:], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_bound_counts_anchors_times_classes():
    head = FixNormRetinaHead(num_classes=80, in_channels=8, feat_channels=8, alpha=0.5)
    assert head.retina_cls.out_channels == 9 * 80
    assert head.retina_cls.scale_bound == pytest.approx(0.5 * math.sqrt(720))
    assert head.alpha == 0.5


def test_initialisation_is_the_stock_heads_with_its_prior_and_scales_follow():
    head = built('FixNormRetinaHead', alpha=1.0, conv_cfg=dict(type='WNConv2d'), **RETINA)
    assert head.retina_cls.bias.detach().sigmoid().numpy() == pytest.approx(0.01)
    assert head.retina_reg.bias.abs().max() == 0
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.15)
            assert module.g.item() == pytest.approx(module.weight.norm().item())


@pytest.mark.parametrize(('kind', 'score'), [('WNRetinaHead', WNConv2d), ('FixNormRetinaHead', FixNormConv2d)])
def test_no_plain_convolution_is_left_in_the_set_of_a_retina_head(kind, score):
    alpha = dict(alpha=1.0) if score is FixNormConv2d else {}
    head = built(kind, conv_cfg=dict(type='WNConv2d'), **RETINA, **alpha)
    kinds = {name: type(head.get_submodule(name.removesuffix('.weight'))) for name in norm_fixing_parameters(head)}
    assert kinds.pop('retina_cls.weight') is score
    assert set(kinds.values()) == {WNConv2d}
    assert len(kinds) == 2 * 2 + 1


def test_fcos_scores_are_fixnorm_and_its_other_outputs_weight_normalised():
    head = FixNormFCOSHead(alpha=2.0, **FCOS)
    assert type(head.conv_cls) is FixNormConv2d
    assert type(head.conv_reg) is type(head.conv_centerness) is WNConv2d
    assert type(head.cls_convs[0].conv) is nn.Conv2d  # GN follows


def test_another_dense_head_takes_three_lines():
    class FixNormATSSHead(FixNormDenseHeadMixin, ATSSHead):
        score_convs = ('atss_cls',)
        other_convs = ('atss_reg', 'atss_centerness')

    anchors = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16])
    common = dict(
        num_classes=CLASSES, in_channels=CHANNELS, feat_channels=32, stacked_convs=1, anchor_generator=anchors
    )
    torch.manual_seed(0)
    ours = FixNormATSSHead(alpha=100.0, **copy.deepcopy(common))
    torch.manual_seed(0)
    stock = ATSSHead(**copy.deepcopy(common))
    for head in (ours, stock):
        torch.manual_seed(0)
        head.init_weights()
    fill_scales(ours)
    for mine, reference in zip(ours(features()), stock(features()), strict=True):
        torch.testing.assert_close(mine, reference)
    assert type(ours.atss_cls) is FixNormConv2d


def test_a_stock_checkpoint_loads_and_adds_only_scales():
    stock = built(RetinaHead, seed=3, **RETINA)
    ours = built('FixNormRetinaHead', alpha=100.0, conv_cfg=dict(type='WNConv2d'), **RETINA)
    missing, unexpected = ours.load_state_dict(stock.state_dict(), strict=False)
    assert (missing, unexpected) == ([], [])
    for mine, reference in zip(ours(features()), stock(features()), strict=True):
        torch.testing.assert_close(mine, reference)


def test_training_reaches_every_parameter_and_a_scale_above_the_bound_stays():
    head = built('FixNormRetinaHead', alpha=0.01, conv_cfg=dict(type='WNConv2d'), **RETINA)
    total = sum(sum(v) if isinstance(v, list) else v for v in losses(head, head(features())).values())
    total.backward()
    grads = {name: p.grad.abs().max().item() for name, p in head.named_parameters()}
    assert grads.pop('retina_cls.g') == 0
    assert min(grads.values()) > 0


@pytest.mark.parametrize('alpha', [0, -1.0, math.nan])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match='alpha must be > 0'):
        FixNormRetinaHead(alpha=alpha, **copy.deepcopy(RETINA))


def test_the_weight_normalised_baseline_takes_no_alpha():
    with pytest.raises(TypeError, match='alpha'):
        WNRetinaHead(alpha=1.0, **copy.deepcopy(RETINA))
