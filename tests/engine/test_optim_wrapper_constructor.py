import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmfixnorm.core import WNConv2d
from mmfixnorm.core.membership import FLAG, WAITING, flagged, places


def build(model, optimizer=None, wrapper=None, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(
            type='FixNormOptimWrapper',
            constructor='FixNormOptimWrapperConstructor',
            optimizer=optimizer or dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True),
            paramwise_cfg=paramwise_cfg or None,
            **(wrapper or {}),
        ),
    )


@pytest.fixture
def warnings(monkeypatch):
    """What the constructor warns of."""
    said = []
    module = 'mmfixnorm.engine.optim_wrapper_constructor'
    monkeypatch.setattr(f'{module}.print_log', lambda text, level=0, **_: said.append(text) if level else None)
    return said


def sorted_names(model, wrapper):
    """The groups as sets of names with flag, decay and lr."""
    names = {id(p): n for n, p in model.named_parameters()}
    return [
        ({names[id(p)] for p in g['params']}, bool(g.get(FLAG)), g['weight_decay'], g['lr'])
        for g in wrapper.optimizer.param_groups
    ]


def test_parameters_are_sorted_into_two_groups(toy_classifier):
    model = toy_classifier()
    groups = sorted_names(model, build(model, dict(type='SGD', lr=0.1, weight_decay=0.01)))
    fixed = {'backbone.0.weight', 'backbone.3.weight', 'head.fc.weight'}
    assert groups == [
        (fixed, True, 0.0, 0.1),
        ({n for n, _ in model.named_parameters()} - fixed, False, 0.0, 0.1),
    ]


def test_algorithm_1_decays_the_fc_and_fixes_the_convs(toy_classifier):
    model = toy_classifier(fc=nn.Linear(6, 3))
    groups = sorted_names(model, build(model, lambda_fc=5e-5))
    assert groups[0] == ({'backbone.0.weight', 'backbone.3.weight'}, True, 0.0, 0.1)
    assert groups[1] == ({'head.fc.weight'}, False, 5e-5, 0.1)
    assert groups[2][2] == 0.0
    assert {'head.fc.bias', 'backbone.1.weight'} <= groups[2][0]


def test_excluded_weights_and_loose_tensors_keep_the_optimizers_decay(toy_classifier):
    model = toy_classifier()
    model.pos_embed = nn.Parameter(torch.ones(1, 2))
    groups = sorted_names(model, build(model, dict(type='SGD', lr=0.1, weight_decay=0.01), exclude=[r'^backbone\.0']))
    assert groups[0][0] == {'backbone.3.weight', 'head.fc.weight'}
    assert groups[2] == ({'backbone.0.weight', 'pos_embed'}, False, 0.01, 0.1)


def test_every_parameter_is_in_exactly_one_group(toy_classifier):
    model = toy_classifier()
    model.backbone[0].weight.requires_grad_(False)
    model.twin = nn.Linear(6, 3)
    model.twin.weight = model.head.fc.weight  # shared
    wrapper = build(model)
    ids = [id(p) for g in wrapper.optimizer.param_groups for p in g['params']]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert len(flagged(wrapper.optimizer)) == 2
    assert [*places(wrapper.optimizer, WAITING).values()] == [model.backbone[0].weight]


def test_scale_of_a_wn_layer_is_not_decayed_though_the_layer_is_a_conv(toy_classifier):
    model = nn.Sequential(WNConv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = sorted_names(model, build(model, dict(type='AdamW', lr=0.1)))  # AdamW decays by default
    assert groups == [
        ({'0.weight'}, True, 0.0, 0.1),
        ({'0.g', '0.bias', '1.weight', '1.bias'}, False, 0.0, 0.1),
    ]


def test_learning_rates_of_custom_keys_split_the_groups(toy_classifier):
    model = toy_classifier()
    groups = sorted_names(model, build(model, custom_keys={'head': dict(lr_mult=10), 'head.fc.g': dict(lr_mult=1)}))
    assert len(groups) == 4
    rates = {name: lr for names, _, _, lr in groups for name in names}
    assert {n for n, lr in rates.items() if lr == 1.0} == {'head.fc.weight', 'head.fc.bias'}


@pytest.mark.parametrize(
    'custom_keys, decays',
    [
        (dict(), {'pos_embed': 0.01, 'backbone.0.weight': 0.01, 'head.fc.weight': 5e-5}),
        ({'pos_embed': dict(decay_mult=0)}, {'pos_embed': 0, 'backbone.0.weight': 0.01, 'head.fc.weight': 5e-5}),
        ({'': dict(decay_mult=0)}, {'pos_embed': 0, 'backbone.0.weight': 0, 'head.fc.weight': 0}),
        (
            {'': dict(decay_mult=0), 'pos_embed': dict(lr_mult=0.1)},
            {'pos_embed': 0.01, 'backbone.0.weight': 0, 'head.fc.weight': 0},
        ),
    ],
)
def test_decay_of_custom_keys_can_be_switched_off_outside_the_set(toy_classifier, custom_keys, decays):
    model = toy_classifier(fc=nn.Linear(6, 3))
    model.pos_embed = nn.Parameter(torch.ones(1, 2))
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.01)
    groups = sorted_names(model, build(model, sgd, lambda_fc=5e-5, exclude=[r'^backbone\.0'], custom_keys=custom_keys))
    found = {name: decay for names, _, decay, _ in groups for name in names}
    assert {name: found[name] for name in decays} == decays
    assert groups[0][:3] == ({'backbone.3.weight'}, True, 0.0)


def test_decay_multipliers_of_a_baseline_are_taken_as_said(toy_classifier):
    model = toy_classifier()
    assert sorted_names(model, build(model, norm_decay_mult=0.0, bias_decay_mult=0.0)) == sorted_names(
        model, build(model)
    )


def test_plain_linear_layers_in_the_set_are_named_in_a_warning(toy_classifier, capsys):
    build(toy_classifier())
    assert 'plain linear' not in capsys.readouterr().out
    build(toy_classifier(fc=nn.Linear(6, 3)))
    assert "plain linear layers: ['head.fc']" in capsys.readouterr().out


def test_layers_with_stored_statistics_in_the_set_are_named_in_a_warning(toy_classifier, capsys):
    build(toy_classifier())
    assert 'stored statistics' not in capsys.readouterr().out
    frozen_bn = toy_classifier()
    frozen_bn.backbone[4].train = lambda mode=True: frozen_bn.backbone[4]  # as norm_eval=True does
    frozen_bn.backbone[4].training = False
    build(frozen_bn)
    warned = capsys.readouterr().out
    assert "runs on stored statistics: ['backbone.3']." in warned
    assert "dict(type='WNConv2d', train_scale=False)" in warned
    build(frozen_bn, exclude=[r'backbone\.3'])
    assert 'stored statistics' not in capsys.readouterr().out
    frozen_bn.backbone[3] = WNConv2d.from_plain(frozen_bn.backbone[3], train_scale=False)
    build(frozen_bn)
    assert 'stored statistics' not in capsys.readouterr().out


@pytest.mark.parametrize(
    'paramwise_cfg, message',
    [
        (dict(lamda_fc=1), r"does not know \['lamda_fc'\]; it takes \['lambda_fc'"),
        (dict(norm_decay_mult=1.0), 'norm_decay_mult must be 0 .*got 1.0'),
        (dict(bias_decay_mult=0.5), 'bias_decay_mult must be 0 .*got 0.5'),
        (dict(lambda_fc=-1.0), 'lambda_fc must be >= 0 .*got -1.0'),
        (dict(lambda_fc=math.nan), 'got nan'),
        (dict(exclude=['nope']), "pattern 'nope' matches none"),
        (dict(exclude=['.']), 'norm-fixing set is empty'),
        (dict(custom_keys=dict(head=dict(lr=0.1))), r"custom_keys\['head'\]: only lr_mult and decay_mult"),
        (
            dict(custom_keys=dict(head=dict(decay_mult=0.5))),
            r"custom_keys\['head'\]\.decay_mult must be 0 or 1, got 0.5",
        ),
    ],
)
def test_bad_options_say_what_was_found(toy_classifier, paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(toy_classifier(), **paramwise_cfg)


def test_model_without_anything_to_fix_is_refused():
    with pytest.raises(ValueError, match='norm-fixing set is empty: the model has no trainable conv or FC weight'):
        build(nn.Sequential(nn.BatchNorm2d(2)))


@pytest.mark.parametrize('kind', ['SGD', torch.optim.SGD, 'AdamW', torch.optim.AdamW])
@pytest.mark.parametrize('wrapper', [{}, dict(update='angle'), dict(update='angle', other_lr=0.4)])
def test_the_factor_that_is_for_sgd_is_warned_of_with_another_optimizer(toy_classifier, kind, wrapper, warnings):
    build(toy_classifier(), dict(type=kind, lr=0.02, weight_decay=0.0), wrapper)
    is_wrong = 'Adam' in str(kind) and wrapper == dict(update='angle')
    said = 'optim_wrapper.other_lr: is not set, so AdamW trains all parameters outside the set with 20 times'
    assert [text[: len(said)] for text in warnings] == [said] * is_wrong


def test_what_has_no_effect_is_warned_of(toy_classifier, warnings):
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.1)
    build(toy_classifier(), sgd, custom_keys={'bakbone': dict(lr_mult=0.1), 'backbone': dict(lr_mult=0.5)})
    assert [text.split(':')[0] for text in warnings] == [
        'optim_wrapper.paramwise_cfg.custom_keys',
        'optim_wrapper.optimizer.weight_decay=0.1 has no effect',
    ]
    assert "'bakbone'" in warnings[0]
    warnings.clear()
    build(toy_classifier(), sgd, exclude=[r'^backbone\.0'])  # which is decayed
    build(toy_classifier(), dict(sgd, weight_decay=0.0))
    assert warnings == []
