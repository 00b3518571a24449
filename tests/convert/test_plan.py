"""Which layers are given a bound: what is refused and why, and what is no classifier though it looks like one."""

from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn
from torch.nn import functional as F

from mmfixnorm.convert import convert
from mmfixnorm.convert.stock import head_edits
from mmfixnorm.errors import ConfigError

models = pytest.importorskip('mmpretrain.models')
MODELS = models.builder.MODELS
WD = Path(__file__).parents[2] / 'configs/digits/resnet8_wd_1xb64-20e_digits.py'


class _Head(models.heads.ClsHead):
    layer = nn.Linear

    def __init__(self, num_classes=10, **kwargs):
        super().__init__(**kwargs)
        self.fc = self.layer(32, num_classes)

    def forward(self, feats):
        return self.fc(feats[-1])


class HeadOfFunctions(_Head):
    def forward(self, feats):
        return F.linear(feats[-1], self.fc.weight, self.fc.bias)


class LinearOfOnesOwn(nn.Linear):
    pass


class HeadOfOnesOwnLayer(_Head):
    layer = LinearOfOnesOwn


class HeadFromZero(_Head):
    def init_weights(self):
        nn.init.zeros_(self.fc.weight)


@pytest.fixture(autouse=True)
def _registered():
    for head in (HeadOfFunctions, HeadOfOnesOwnLayer, HeadFromZero):
        MODELS.register_module(module=head, force=True)


def converted(tmp_path, head=None, **options):
    text = f'_base_ = [{str(WD)!r}]\n'
    if head:
        text += f'model = dict(head=dict(_delete_=True, type={head!r}))\n'
    (tmp_path / 'child.py').write_text(text)
    return convert(str(tmp_path / 'child.py'), str(tmp_path / 'new.py'), size=16, **options)


@pytest.mark.parametrize(
    ('head', 'reason'),
    [
        ('HeadOfFunctions', 'HeadOfFunctions uses its weight without calling the layer'),
        ('HeadOfOnesOwnLayer', 'LinearOfOnesOwn has no weight-normalised form'),
        ('HeadFromZero', 'starts at zero, which has no direction'),
    ],
)
def test_a_classifier_that_cannot_be_bounded_is_refused_with_the_reason_named_or_not(tmp_path, head, reason):
    for named in ([], ['head.fc']):
        with pytest.raises(ConfigError, match=rf'layer for the classes, head.fc, cannot be given a bound: {reason}'):
            converted(tmp_path, head, classifiers=named)


def test_the_classifier_that_is_found_anyway_may_be_named(tmp_path):
    named = converted(tmp_path, classifiers=['head.fc'])
    assert (named.classifiers, named.left_out) == (('head.fc',), {})


def test_a_layer_whose_scale_has_no_effect_is_no_classifier(tmp_path):
    with pytest.raises(ConfigError, match='--classifier backbone.conv1: has no scale for alpha to bound'):
        converted(tmp_path, classifiers=['backbone.conv1'])


LOSS = dict(type='CrossEntropyLoss', use_sigmoid=True)


@pytest.mark.slow
def test_the_main_head_of_a_binary_segmentor_is_bounded_as_its_auxiliary_head_is(tmp_path):
    pytest.importorskip('mmseg')
    binary = dict(channels=8, num_classes=2, out_channels=1, norm_cfg=dict(type='BN'), loss_decode=LOSS)
    backbone = dict(type='ResNetV1c', depth=18, base_channels=8, norm_cfg=dict(type='BN'), norm_eval=False)
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone={**backbone, 'num_stages': 4, 'out_indices': (0, 1, 2, 3), 'style': 'pytorch'},
        decode_head=dict(type='ASPPHead', in_channels=64, in_index=3, dilations=(1, 2), **binary),
        auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, num_convs=1, **binary),
        test_cfg=dict(mode='whole'),
    )
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
    evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
    cfg = dict(default_scope='mmseg', model=model, optim_wrapper=dict(optimizer=optimizer), val_evaluator=evaluator)
    Config(cfg).dump(tmp_path / 'plain.py')
    done = convert(str(tmp_path / 'plain.py'), str(tmp_path / 'new.py'), size=64)
    assert {*done.classifiers} == {'decode_head.conv_seg', 'auxiliary_head.conv_seg'}
    new = Config.fromfile(tmp_path / 'new.py')
    assert new.search.alpha_key == ['model.auxiliary_head.alpha', 'model.fixnorm.alpha']


def test_a_head_of_an_rpn_or_one_that_stays_as_it_is_gets_no_bound():
    head = dict(type='FCOSHead', num_classes=1)
    model = dict(type='FasterRCNN', rpn_head=head, teacher=dict(bbox_head=head), bbox_head=head)
    edit, heads = head_edits(model, 2.0, 'mmdet', kept=['teacher.bbox_head'])
    assert edit == dict(bbox_head=dict(type='FixNormFCOSHead', alpha=2.0))
    assert heads == ['bbox_head']


class Taught(models.ImageClassifier):
    """A classifier beside a trained one of the same kind."""

    def __init__(self, teacher, **kwargs):
        super().__init__(**kwargs)
        self.teacher = MODELS.build(teacher).requires_grad_(False)


def test_a_head_that_is_not_trained_gets_no_bound(tmp_path):
    MODELS.register_module(module=Taught, force=True)
    plain = Config.fromfile(WD).model.to_dict()
    plain.pop('data_preprocessor', None)
    (tmp_path / 'child.py').write_text(f"_base_ = [{str(WD)!r}]\nmodel = dict(type='Taught', teacher={plain!r})\n")
    done = convert(str(tmp_path / 'child.py'), str(tmp_path / 'new.py'), size=16)
    new = Config.fromfile(tmp_path / 'new.py')
    assert (done.classifiers, new.search.alpha_key) == (('head.fc',), 'model.head.alpha')
    assert new.model.teacher.head.type == 'LinearClsHead'
