"""The learning rate of each parameter by another constructor: layer-wise decay, beside FixNorm's set and groups."""

import importlib.util

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn

from mmfixnorm.core import FixNormLinear
from mmfixnorm.core.layers import WNConv2d
from mmfixnorm.core.membership import flagged
from tests.engine.conftest import FIXNORM, ToyClassifier

LR = 0.3
OF_DENSE = 'LearningRateDecayOptimizerConstructor'
DECAYED = dict(type='LearningRateDecayOptimWrapperConstructor', layer_decay_rate=0.7)


class ByDepth(DefaultOptimWrapperConstructor):
    """Lowers the learning rate of the backbone, with a group for each parameter, as the toolboxes' constructors do."""

    def add_params(self, params, module, prefix='', **kwargs):
        for name, param in module.named_parameters():
            if param.requires_grad and not name.startswith(self.paramwise_cfg.get('without', '-')):
                scale = self.paramwise_cfg['rate'] if name.startswith('backbone') else 1.0
                decay = self.base_wd * (0 if param.ndim == 1 else 1)
                params.append(dict(params=[param], lr=self.base_lr * scale, lr_scale=scale, weight_decay=decay))


@pytest.fixture(autouse=True)
def _registered():
    OPTIM_WRAPPER_CONSTRUCTORS.register_module(name='ByDepth', module=ByDepth)
    yield
    OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop('ByDepth')


def mmpretrain_model(backbone, width):
    pytest.importorskip('mmpretrain')
    import mmpretrain.engine
    import mmpretrain.models  # noqa: F401

    DefaultScope.get_instance('lr_constructor', scope_name='mmpretrain')
    torch.manual_seed(0)
    head = dict(type='LinearClsHead', num_classes=3, in_channels=width)
    model = MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head))
    model.head.fc = FixNormLinear(width, 3, alpha=1.0)
    return model


def convnext():
    arch = dict(depths=[1, 1, 2, 1], channels=[4, 4, 8, 8])
    return mmpretrain_model(dict(type='ConvNeXt', arch=arch), 8)


def vit():
    arch = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16)
    return mmpretrain_model(dict(type='VisionTransformer', arch=arch, img_size=32, out_type='cls_token'), 8)


def resnet():
    return mmpretrain_model(dict(type='ResNet', depth=34, base_channels=4, stem_channels=4), 32)


def dense():
    """What the constructors of mmdet and mmseg look at: a ConvNeXt as ``backbone``, and something behind it."""
    model = nn.Module()
    model.backbone = convnext().backbone
    model.decode_head = nn.Conv2d(8, 3, 1)
    return model


def toy():
    torch.manual_seed(0)
    return ToyClassifier()


CASES = {
    'toy': (toy, dict(type='ByDepth', rate=0.5)),
    'convnext': (convnext, DECAYED),
    'vit': (vit, DECAYED),
    'resnet': (resnet, DECAYED),
    **{
        f'{scope}-{decay_type}': (
            dense,
            dict(type=f'{scope}.{OF_DENSE}', decay_rate=0.7, decay_type=decay_type, num_layers=6),
        )
        for scope in ('mmdet', 'mmseg')
        for decay_type in ('layer_wise', 'stage_wise')
    },
}

# Of a toolbox that is not installed, no case is left.
INSTALLED = {
    name: case
    for name, case in CASES.items()
    if '.' not in case[1]['type'] or importlib.util.find_spec(case[1]['type'].partition('.')[0])
}


def built(model, lr_constructor=None, optimizer=None, update=None, **paramwise):
    if lr_constructor:
        paramwise['lr_constructor'] = lr_constructor
    optimizer = optimizer or dict(type='AdamW', lr=LR, weight_decay=0.05)
    turn = dict(update=update, per='layer') if update else {}
    return build_optim_wrapper(model, dict(**FIXNORM, optimizer=optimizer, paramwise_cfg=paramwise or None, **turn))


def stock_lrs(model, lr_constructor):
    """The learning rates of the constructor alone, as its toolbox uses it."""
    options = dict(lr_constructor)
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor=options.pop('type'),
            optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05),
            paramwise_cfg=options,
        ),
    )
    return of_each(model, wrapper, 'lr')


def of_each(model, wrapper, key):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group[key] for group in wrapper.optimizer.param_groups for p in group['params']}


@pytest.mark.parametrize('build, lr_constructor', INSTALLED.values(), ids=INSTALLED)
@pytest.mark.parametrize('weight_decay', [0.05, 0.0, None])
def test_each_parameter_has_the_lr_of_the_stock_constructor_and_only_that(build, lr_constructor, weight_decay):
    model = build()
    decay = {} if weight_decay is None else dict(weight_decay=weight_decay)
    optimizer = dict(type='SGD', lr=LR, **decay)
    alone, both = built(model, optimizer=optimizer), built(model, lr_constructor, optimizer)
    expected = stock_lrs(model, lr_constructor)
    assert len(set(expected.values())) > 1
    assert of_each(model, both, 'lr') == pytest.approx(expected, rel=1e-12)
    assert {id(w) for w in flagged(both.optimizer)} == {id(w) for w in flagged(alone.optimizer)}
    decays = of_each(model, both, 'weight_decay')
    assert decays == of_each(model, alone, 'weight_decay')
    in_set = {id(w) for w in flagged(both.optimizer)}
    assert {decays[n] for n, p in model.named_parameters() if id(p) in in_set} == {0.0}
    assert not any('lr_scale' in group for group in both.optimizer.param_groups)


@pytest.mark.parametrize('build, lr_constructor', INSTALLED.values(), ids=INSTALLED)
def test_by_angle_the_angles_are_decayed_as_the_learning_rates_are(build, lr_constructor):
    model = build()
    wrapper = built(model, lr_constructor, dict(type='SGD', lr=0.02), update='angle')
    in_set = {id(w) for w in flagged(wrapper.optimizer)}
    scales = {name: lr / LR for name, lr in stock_lrs(model, lr_constructor).items()}
    times = {name: 1 if id(p) in in_set else 20 for name, p in model.named_parameters()}
    expected = {name: 0.02 * scale * times[name] for name, scale in scales.items()}
    assert of_each(model, wrapper, 'lr') == pytest.approx(expected, rel=1e-12)


def test_scales_of_weight_normalised_layers_have_the_depth_of_their_layer():
    model = convnext()
    stem = model.backbone.downsample_layers[0]
    stem[0] = WNConv2d.from_plain(stem[0])
    lrs = of_each(model, built(model, DECAYED), 'lr')
    assert lrs['backbone.downsample_layers.0.0.g'] == lrs['backbone.downsample_layers.0.0.weight'] < LR
    assert lrs['head.fc.g'] == LR


def test_groups_that_a_constructor_prints_are_not_taken_for_those_in_use(capsys):
    pytest.importorskip('mmseg')
    model, lr_constructor = dense(), CASES['mmseg-stage_wise'][1]
    stock_lrs(model, lr_constructor)
    assert 'Param groups' in capsys.readouterr().out
    built(model, lr_constructor)
    assert 'Param groups' not in capsys.readouterr().out


def test_a_frozen_parameter_has_the_lr_that_it_will_train_with():
    model = toy()
    model.backbone[0].weight.requires_grad = False
    lrs = of_each(model, built(model, dict(type='ByDepth', rate=0.5)), 'lr')
    assert lrs['backbone.0.weight'] == LR * 0.5
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ['backbone.0.weight']


def test_lr_mult_multiplies_it():
    model = toy()
    wrapper = built(model, dict(type='ByDepth', rate=0.5), custom_keys={'backbone.3': dict(lr_mult=10)})
    lrs = of_each(model, wrapper, 'lr')
    assert [lrs[f'backbone.{i}.weight'] for i in (0, 3)] == pytest.approx([LR * 0.5, LR * 5])
    assert lrs['head.fc.weight'] == LR


def weights(runner):
    return [p.detach().clone() for p in runner.model.parameters()]


@pytest.mark.parametrize('update', [dict(), dict(update='angle', per='layer')], ids=['step', 'angle'])
def test_a_resumed_run_is_the_uninterrupted_one_with_norm_and_lrs(toy_runner, forget_runs, update):
    wrapper = dict(FIXNORM, **update, paramwise_cfg=dict(lr_constructor=dict(type='ByDepth', rate=0.5)))
    lr = 0.02 if update else 0.1
    whole = toy_runner('whole', wrapper=wrapper, lr=lr)
    whole.train()
    target, last = whole.optim_wrapper.norm_fixer.target, weights(whole)
    forget_runs()
    toy_runner('part', epochs=1, wrapper=wrapper, lr=lr).train()
    forget_runs()
    resumed = toy_runner('part', wrapper=wrapper, lr=lr, resume=True)
    resumed.train()
    assert resumed.optim_wrapper.norm_fixer.target == target
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), last, strict=True))
    lrs = of_each(resumed.model, resumed.optim_wrapper, 'lr')
    assert lrs['backbone.0.weight'] == pytest.approx(0.5 * lrs['head.fc.weight'])


@pytest.mark.parametrize(
    'lr_constructor, optimizer, message',
    [
        ('ByDepth', {}, r"lr_constructor: must be a dict with type, .*got 'ByDepth'"),
        (dict(rate=0.5), {}, r"lr_constructor: must be a dict with type, .*got \{'rate': 0.5\}"),
        (dict(type='NoSuch'), {}, "lr_constructor.type: no constructor 'NoSuch' is registered; check"),
        (dict(type='FixNormOptimWrapperConstructor'), {}, 'is a constructor with norm fixing itself'),
        (dict(type='ByDepth', depth=3), {}, r"ByDepth cannot group the parameters of ToyClassifier with the options "
                                            r"\{'depth': 3\}: KeyError: 'rate'"),
        (dict(type='ByDepth', rate=0.5, without='head.fc'), {}, r'leaves out 3 parameters \(head.fc'),
        (dict(type='ByDepth', rate=float('nan')), {}, r'gives backbone.0.weight nan times the learning rate'),
        (dict(type='ByDepth', rate=0.5), dict(lr=0.0), r'lr_constructor: needs a number > 0 as .*lr, got 0.0'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(lr_constructor, optimizer, message):
    with pytest.raises(ValueError, match=message):
        built(toy(), lr_constructor, dict(type='SGD', lr=LR, weight_decay=0.1) | optimizer)


def test_an_option_that_a_toolbox_leaves_to_chance_is_refused():
    pytest.importorskip('mmseg')
    options = dict(type=f'mmseg.{OF_DENSE}', num_layers=6, decay_rate=0.7, decay_type='by_mood')
    with pytest.raises(ValueError, match="cannot group the parameters of ToyClassifier .*'by_mood'.*UnboundLocalError"):
        built(toy(), options)


def test_a_model_without_depths_is_refused_by_name():
    pytest.importorskip('mmpretrain')
    import mmpretrain.engine  # noqa: F401

    DefaultScope.get_instance('lr_constructor', scope_name='mmpretrain')
    with pytest.raises(ValueError, match='cannot group the parameters of ToyClassifier .*get_layer_depth'):
        built(toy(), DECAYED)
