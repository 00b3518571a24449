"""Plain configs of this project, converted: the ones with FixNorm were written by hand."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from torch import nn

from mmfixnorm.config import load_config
from mmfixnorm.convert import convert
from mmfixnorm.convert.angle import has_warm_up
from mmfixnorm.convert.audit import prepared_model
from mmfixnorm.engine import FixNormHook
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings

CONFIGS = Path(__file__).parents[2] / 'configs'
WD = CONFIGS / 'digits/resnet8_wd_1xb64-20e_digits.py'


def test_a_classifier_becomes_the_config_that_was_written_by_hand(tmp_path) -> None:
    done = convert(str(WD), str(tmp_path / 'new.py'), alpha=1.0, size=16)
    new, by_hand = (
        Config.fromfile(p) for p in (tmp_path / 'new.py', WD.with_name(WD.name.replace('_wd_', '_fixnorm_')))
    )
    assert new.model == by_hand.model
    assert new.custom_imports == by_hand.custom_imports
    assert new.custom_hooks == by_hand.custom_hooks
    new.optim_wrapper.optimizer.lr = by_hand.optim_wrapper.optimizer.lr  # tuned there
    assert new.optim_wrapper == by_hand.optim_wrapper
    assert parse_settings(new.search).alpha_keys == parse_settings(by_hand.search).alpha_keys
    assert parse_settings(new.search).metric == parse_settings(by_hand.search).metric
    assert done.classifiers == ('head.fc',)
    assert len(done.in_set) == 10  # the stem, six in blocks, two shortcuts, the classifier
    assert (done.weight_normalized, done.left_out, done.notes) == ((), {}, ())


@pytest.mark.parametrize(
    'base',
    [
        'digits/resnet8_wd_1xb64-20e_digits',
        pytest.param('bccd/retinanet_r18-thin-fpn_wd_1xb4-600i_bccd', marks=pytest.mark.slow),
        pytest.param('camvid/base-oc_r18-thin-d8_wd_1xb8-240i_camvid', marks=pytest.mark.slow),
    ],
)
def test_by_angle_it_becomes_the_config_by_angle_that_was_written_by_hand(tmp_path, base) -> None:
    plain = CONFIGS / f'{base}.py'
    done = convert(str(plain), str(tmp_path / 'new.py'), size=16 if 'resnet8' in base else None, update='angle')
    new, by_hand = (Config.fromfile(p) for p in (tmp_path / 'new.py', str(plain).replace('_wd_', '_angle_')))
    assert new.optim_wrapper == by_hand.optim_wrapper
    assert new.param_scheduler == by_hand.param_scheduler
    settings, expected = parse_settings(new.search), parse_settings(by_hand.search)
    assert (settings.lr_range, settings.alpha_key) == (expected.lr_range, expected.alpha_key)
    assert '# lr is an angle: each layer of the set turns by it' in done.text
    assert '# lr_range is in radians.' in done.text


@pytest.mark.parametrize('update', ['step', 'angle'])
def test_no_schedule_brings_decay_back_and_averages_among_the_default_hooks_have_the_norm(tmp_path, update) -> None:
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = [{str(WD)!r}]\n'
        "param_scheduler = [dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min=1e-5)]\n"
        "default_hooks = dict(ema=dict(type='EMAHook', momentum=0.01))\n"
    )
    done = convert(str(base), str(tmp_path / 'new.py'), size=16, update=update)
    new = Config.fromfile(tmp_path / 'new.py')
    assert new.param_scheduler == []
    assert '# Not carried over: CosineAnnealingParamScheduler of weight_decay with eta_min=1e-05' in done.text
    assert new.default_hooks.ema == dict(type='FixNormEMAHook', momentum=0.01)


def test_by_angle_the_end_of_a_schedule_is_no_longer_in_units_of_the_lr(tmp_path) -> None:
    cosine = dict(type='CosineAnnealingLR', by_epoch=True, T_max=20, eta_min=0.01)
    plain = child_of(tmp_path, f'param_scheduler = [{cosine!r}]\n')
    done = convert(plain, str(tmp_path / 'new.py'), size=16, update='angle', lr_range=(0.01, 0.1))
    expected = dict(type='CosineAnnealingLR', by_epoch=True, T_max=20, eta_min_ratio=0.1)
    assert Config.fromfile(tmp_path / 'new.py').param_scheduler == [expected]
    assert '# As in the base config, with what was in units of its learning rate' in done.text
    assert parse_settings(Config.fromfile(tmp_path / 'new.py').search).lr_range == (0.01, 0.1)
    assert 'linked_keys' not in done.text  # a ratio holds for every angle
    without = convert(plain, str(tmp_path / 'step.py'), size=16)
    assert parse_settings(Config.fromfile(tmp_path / 'step.py').search).linked_keys == ('param_scheduler.0.eta_min',)
    assert '# linked_keys keep their ratio to the learning rate.' in without.text
    assert 'update=' not in without.text
    assert 'param_scheduler = ' not in without.text


def test_a_child_behind_a_link_finds_its_base(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('disk/deep/runs').mkdir(parents=True)
    Path('project').mkdir()
    Path('project/plain.py').write_text(f'_base_ = [{str(WD)!r}]\nmark = 7\n')
    Path('project/work_dirs').symlink_to(tmp_path / 'disk/deep/runs')
    convert('project/plain.py', 'project/work_dirs/new.py', size=16)
    assert load_config('project/work_dirs/new.py').mark == 7


@pytest.mark.slow
def test_a_base_named_by_its_package_stays_so_in_the_child(tmp_path) -> None:
    pytest.importorskip('mmpretrain')
    stock = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    done = convert(stock, str(tmp_path / 'new.py'), size=32)
    assert f'_base_ = [{stock!r}]' in done.text
    assert load_config(tmp_path / 'new.py').model.head.type == 'FixNormLinearClsHead'


def refused(tmp_path, message, text='', base=WD, **kwargs) -> None:
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = [{str(base)!r}]\n{text}')
    with pytest.raises(ConfigError, match=message):
        convert(str(child), str(tmp_path / 'new.py'), **kwargs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['child.py']


@HOOKS.register_module()
class OwnNormFixing(FixNormHook):
    """A subclass under a name of its own."""


@pytest.mark.parametrize('out', ['new.json', 'sub dir/new', 'new.PY', '.'])
def test_what_mmengine_would_not_read_is_refused_first(tmp_path, monkeypatch, out) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf'^--out {out}: a config of mmengine ends in .py; choose such a name'):
        convert('not read yet.py', out, overwrite=True)


@pytest.mark.parametrize(
    'text, message',
    [
        ("default_scope = 'mmrotate'", "default_scope: must be one of .*, got 'mmrotate'"),
        ("custom_hooks = [dict(type='FixNormHook')]", "already FixNorm: it has 'FixNormHook'"),
        ("custom_hooks = [dict(type='OwnNormFixing')]", "already FixNorm: 'OwnNormFixing' is a FixNormHook"),
        ('model = None', 'model: must be a dict, got None'),
        ("model = dict(type='FixNormModel')", "already FixNorm: it has 'FixNormModel'"),
        ("optim_wrapper = dict(constructor='FixNormOptimWrapperConstructor')", 'already FixNorm'),
        ("optim_wrapper = dict(type='ApexOptimWrapper')", 'has no form with norm fixing'),
    ],
)
def test_what_cannot_be_converted_is_refused_before_anything_is_built(tmp_path, text, message) -> None:
    refused(tmp_path, message, text)


def test_a_schedule_without_a_counterpart_in_angles_is_refused(tmp_path) -> None:
    text = "param_scheduler = [dict(type='OneCycleLR', eta_max=0.1, total_steps=20)]\n"
    refused(tmp_path, r'param_scheduler\[0\].eta_max: OneCycleLR', text, update='angle')
    refused(tmp_path, "--update: must be 'step' or 'angle', got 'turn'", update='turn')


def test_a_model_without_a_classifier_is_refused(tmp_path) -> None:
    text = "model = dict(head=dict(_delete_=True, type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')))"
    refused(tmp_path, 'no classifier was found|cannot be audited', text, size=16)


def test_a_classifier_that_is_normalised_already_is_named(tmp_path) -> None:
    head = "dict(_delete_=True, type='ArcFaceClsHead', num_classes=10, in_channels=32)"
    message = r'layer for the classes, head.norm_product \(NormProduct\), is scale-invariant already'
    refused(tmp_path, message, f'model = dict(head={head})', size=16)


class UsesItsWeightTwice(nn.Module):
    """A layer whose weight something else uses as well, as K-Net does with that of its first classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)

    def forward(self, features: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        pooled = features[-1].flatten(2).mean(-1)
        return (self.fc(pooled) + pooled @ self.fc.weight.tanh(),)


def test_a_layer_whose_weight_something_else_uses_is_left_out_of_the_set(tmp_path) -> None:
    from mmpretrain.registry import MODELS

    MODELS.register_module(module=UsesItsWeightTwice, force=True)
    plain = tmp_path / 'plain.py'
    plain.write_text(f"_base_ = [{str(WD)!r}]\nmodel = dict(neck=dict(_delete_=True, type='UsesItsWeightTwice'))\n")
    done = convert(str(plain), str(tmp_path / 'new.py'), size=16)
    assert done.left_out == {'neck.fc.weight': 'something else than its layer uses the weight as it is'}
    assert 'neck' not in ''.join((*done.in_set, *done.weight_normalized))
    assert done.classifiers == ('head.fc',)
    new = load_config(tmp_path / 'new.py')
    assert 'swap' not in str(new.model)
    assert new.optim_wrapper.paramwise_cfg.exclude == ['^neck.fc.weight$']


def test_no_file_is_replaced_by_chance(tmp_path) -> None:
    (tmp_path / 'new.py').write_text('mine')
    with pytest.raises(ConfigError, match='already exists'):
        convert(str(WD), str(tmp_path / 'new.py'))
    assert (tmp_path / 'new.py').read_text() == 'mine'
    (tmp_path / 'wd.py').write_text(f'_base_ = [{str(WD)!r}]')
    with pytest.raises(ConfigError, match='would replace the config itself'):
        convert(str(tmp_path / 'wd.py'), str(tmp_path / 'wd.py'), overwrite=True)
    with pytest.raises(ConfigError, match='--alpha: must be > 0'):
        convert(str(WD), str(tmp_path / 'other.py'), alpha=0.0)


STACKED = """
model = dict(head=dict(_delete_=True, type='StackedLinearClsHead', num_classes=10, in_channels=32, mid_channels=[8],
             loss=dict(type='CrossEntropyLoss')))
"""


def child_of(tmp_path, text, base=WD) -> str:
    (tmp_path / 'child.py').write_text(f'_base_ = [{str(base)!r}]\n{text}')
    return str(tmp_path / 'child.py')


def test_layers_that_no_config_key_reaches_are_replaced_while_the_model_is_built(tmp_path) -> None:
    done = convert(child_of(tmp_path, STACKED), str(tmp_path / 'new.py'), alpha=0.5, size=16)
    model = Config.fromfile(tmp_path / 'new.py').model
    assert model.type == 'FixNormModel'
    assert model.fixnorm.to_dict() == dict(
        plain_type='ImageClassifier',
        alpha=0.5,
        swap={'head.layers.1.fc': 'FixNormLinear', 'head.layers.0.fc': 'WNLinear'},
    )
    assert model.head.type == 'StackedLinearClsHead'
    assert Config.fromfile(tmp_path / 'new.py').search.alpha_key == 'model.fixnorm.alpha'
    assert (done.weight_normalized, done.classifiers) == (('head.layers.0.fc',), ('head.layers.1.fc',))
    assert len(done.in_set) == 11


ZERO = """
model = dict(head=dict(_delete_=True, type='VisionTransformerClsHead', num_classes=10, in_channels=32,
             loss=dict(type='CrossEntropyLoss')))
"""


def test_a_classifier_that_starts_at_zero_gets_a_direction(tmp_path) -> None:
    done = convert(child_of(tmp_path, ZERO), str(tmp_path / 'new.py'), size=16)
    assert done.classifiers == ('head.layers.head',)
    assert '# head.layers.head starts at zero in the base' in done.text
    layer = prepared_model(load_config(str(tmp_path / 'new.py'))).head.layers.head
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.2)  # as LinearClsHead's
    assert layer.g.item() == pytest.approx(layer.weight.norm().item())
    assert not layer.bias.any()


MIXED = """
model = dict(
    backbone=dict(
        _delete_=True, type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 16]), stem_patch_size=2, out_indices=1),
    neck=None, head=dict(in_channels=16))
"""


def test_two_kinds_of_layers_that_one_pattern_would_fit_are_both_replaced(tmp_path) -> None:
    done = convert(child_of(tmp_path, MIXED), str(tmp_path / 'new.py'), size=16)
    # All of ConvNeXt's: the stem, one more downsampling; a depthwise convolution and two linear layers in each block.
    assert len(done.weight_normalized) == 2 + 2 * 3
    kinds = list(Config.fromfile(tmp_path / 'new.py').model.fixnorm.swap.values())
    assert sorted(kinds) == ['WNConv2d', 'WNLinear']


ATTENTION = """
model = dict(
    backbone=dict(_delete_=True, type='MixVisionTransformer', embed_dims=8, num_stages=1, num_layers=[1],
                  num_heads=[1], patch_sizes=[3], strides=[2], sr_ratios=[1], out_indices=(0,), mlp_ratio=2),
    decode_head=dict(_delete_=True, type='FCNHead', num_convs=1, in_channels=8, channels=8, in_index=0,
                     num_classes=11, norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss')),
    auxiliary_head=None)
"""


def test_weights_inside_an_attention_are_left_out_and_keep_their_decay(tmp_path) -> None:
    base = CONFIGS / 'digits/base-oc_r18-thin-d4_wd_1xb8-1200i_digits-seg.py'
    done = convert(child_of(tmp_path, ATTENTION, base), str(tmp_path / 'new.py'), size=32)
    attention = 'backbone.layers.0.1.0.attn.attn'
    assert set(done.left_out) == {f'{attention}.in_proj_weight', f'{attention}.out_proj.weight'}
    assert set(done.left_out.values()) == {'nn.MultiheadAttention uses its weights without calling the layers'}
    assert f'{attention}.out_proj.weight' not in done.in_set
    assert 'decode_head.conv_seg.weight' in done.in_set
    wrapper = Config.fromfile(tmp_path / 'new.py').optim_wrapper
    assert wrapper.optimizer.weight_decay == Config.fromfile(base).optim_wrapper.optimizer.weight_decay > 0


def test_a_child_that_does_not_pass_the_audit_is_not_written(tmp_path, monkeypatch) -> None:
    only_one = lambda names, others, taken=(): [n for n in names if '1.fc' in n]  # noqa: E731
    monkeypatch.setattr('mmfixnorm.convert.plan.patterns_for', only_one)
    with pytest.raises(ConfigError, match=r'does not pass the audit: 1 of 11 .* \(head.layers.0.fc.weight: '):
        convert(child_of(tmp_path, STACKED), str(tmp_path / 'new.py'), size=16)
    assert not (tmp_path / 'new.py').exists()


STORED = 'model = dict(backbone=dict(norm_eval=True))'


def test_in_front_of_bn_on_stored_statistics_the_scale_is_held(tmp_path) -> None:
    done = convert(child_of(tmp_path, STORED), str(tmp_path / 'new.py'), size=16)
    new = Config.fromfile(tmp_path / 'new.py')
    assert new.model.backbone.norm_eval
    assert 'norm_cfg' not in new.model.backbone
    assert new.model.fixnorm.swap == {r'backbone\..*': dict(type='WNConv2d', train_scale=False)}
    assert (len(done.in_set), len(done.scale_held), done.left_out) == (10, 9, {})
    assert done.scale_held == done.weight_normalized
    assert new.optim_wrapper.optimizer.weight_decay == 0
    # The scale is trained by one more key.
    grandchild = tmp_path / 'trained.py'
    grandchild.write_text(
        f'_base_ = [{str(tmp_path / "new.py")!r}]\n'
        r"model = dict(fixnorm=dict(swap={r'backbone\..*': dict(train_scale=True)}))"
    )
    model = prepared_model(load_config(str(grandchild)))
    assert sum(name.endswith('.g') for name, _ in model.named_parameters()) == 10


def test_layers_with_a_held_scale_and_with_a_trained_one_have_their_own_patterns(tmp_path) -> None:
    both = STACKED.replace('model = dict(', 'model = dict(backbone=dict(norm_eval=True), ')
    done = convert(child_of(tmp_path, both), str(tmp_path / 'new.py'), size=16)
    assert set(done.weight_normalized) - set(done.scale_held) == {'head.layers.0.fc'}
    swap = Config.fromfile(tmp_path / 'new.py').model.fixnorm.swap
    held = dict(type='WNConv2d', train_scale=False)
    assert swap == {r'backbone\..*': held, 'head.layers.0.fc': 'WNLinear', 'head.layers.1.fc': 'FixNormLinear'}


def test_bn_on_stored_statistics_is_trained_or_its_layers_are_left_out_if_asked(tmp_path) -> None:
    stored = child_of(tmp_path, STORED)
    done = convert(stored, str(tmp_path / 'new.py'), train_bn=True, size=16)
    new = Config.fromfile(tmp_path / 'new.py')
    assert (new.model.backbone.norm_eval, new.model.backbone.norm_cfg.type) == (False, 'SyncBN')
    assert len(done.in_set) == 10
    assert done.scale_held == ()
    assert '# BN on stored statistics' in done.text

    kept = convert(stored, str(tmp_path / 'kept.py'), keep_norm_eval=True, size=16)
    new = Config.fromfile(tmp_path / 'kept.py')
    assert new.model.backbone.norm_eval
    assert kept.in_set == ('head.fc.weight',)
    assert set(kept.left_out.values()) == {'BN on stored statistics'}
    assert len(kept.left_out) == 9
    assert new.optim_wrapper.paramwise_cfg.exclude == [r'^backbone\.']
    assert new.optim_wrapper.optimizer.weight_decay == 1e-4  # reaches those left out

    with pytest.raises(ConfigError, match='--train-bn: trains the BN that --keep-norm-eval keeps'):
        convert(stored, str(tmp_path / 'other.py'), keep_norm_eval=True, train_bn=True)


def test_a_layer_can_be_named_as_the_classifier(tmp_path) -> None:
    plain = child_of(tmp_path, '')
    with pytest.raises(ConfigError, match='--classifier head.fcc: must be a linear layer or conv'):
        convert(plain, str(tmp_path / 'new.py'), size=16, classifiers=['head.fcc'])


@pytest.mark.parametrize(
    'schedulers, warned',
    [
        ([dict(type='MultiStepLR', milestones=[5], by_epoch=True)], True),
        ([dict(type='LinearLR', start_factor=0.1, end=2, by_epoch=True), dict(type='StepLR', step_size=5)], False),
        ([dict(type='LinearLR', start_factor=0.1, begin=3, end=5, by_epoch=True)], True),
        (dict(type='OneCycleLR', eta_max=0.1, total_steps=20), False),
        ([dict(type='LinearMomentum', start_factor=0.1)], True),
        ([], True),
    ],
)
def test_a_schedule_without_warm_up_is_told(schedulers, warned) -> None:
    assert has_warm_up(schedulers, 'mmpretrain') is not warned


def test_a_schedule_with_a_learning_rate_of_its_own_gets_no_search_block_and_a_note(tmp_path) -> None:
    one_cycle = "param_scheduler = [dict(type='OneCycleLR', eta_max=0.1, total_steps=20)]\n"
    plain = child_of(tmp_path, one_cycle)
    done = convert(plain, str(tmp_path / 'new.py'), size=16)
    assert any('eta_max of OneCycleLR, not from the optimizer, so there is no search block' in n for n in done.notes)
    assert 'lr_range' not in (tmp_path / 'new.py').read_text()


LAYER_WISE = """
model = dict(
    backbone=dict(
        _delete_=True, type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[4, 4, 8, 8]), stem_patch_size=2),
    neck=None, head=dict(in_channels=8))
optim_wrapper = dict(
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.5, norm_decay_mult=0.0))
"""


@pytest.mark.parametrize('update', ['step', 'angle'])
def test_layer_wise_learning_rates_of_the_base_are_those_of_the_child(tmp_path, update) -> None:
    plain = child_of(tmp_path, LAYER_WISE)
    done = convert(plain, str(tmp_path / 'new.py'), size=32, update=update)
    assert '# lr_constructor: each parameter has the learning rate that the base gives it.' in done.text

    def lrs(path):
        cfg = load_config(path)
        model = prepared_model(cfg)
        wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper))
        names = {id(p): name for name, p in model.named_parameters()}
        lr = cfg.optim_wrapper.optimizer.lr
        return {names[id(p)]: group['lr'] / lr for group in wrapper.optimizer.param_groups for p in group['params']}

    base, child = lrs(plain), lrs(str(tmp_path / 'new.py'))
    assert len(set(base.values())) == 6
    assert max(base.values()) == 1.0
    outside = 20.0 if update == 'angle' else 1.0
    assert {n: child[n] / (1.0 if n in done.in_set else outside) for n in base} == pytest.approx(base)
    scales = {n: lr / outside for n, lr in child.items() if n.endswith('.g')}
    assert scales == pytest.approx({n: base[f'{n.removesuffix("g")}weight'] for n in scales})
    assert scales.keys() == child.keys() - base.keys()
