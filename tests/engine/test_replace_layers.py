"""Layers replaced while a model is built."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from mmpretrain.models.backbones.mobileone import MobileOneBlock
from mmpretrain.models.backbones.repvgg import RepVGGBlock
from torch import nn

from mmfixnorm.config import move_fixnorm_into_model
from mmfixnorm.core import FixNormLinear, WNConv2d, WNLinear
from mmfixnorm.core.membership import flagged
from mmfixnorm.engine.replace_layers import is_plain_layer, replace_layers_by_path
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.trial.readback import built_value

X = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def replaced(toy_classifier):
    """Builds the toy classifier from a config, with layers replaced; every model starts from the same numbers."""
    plain_type = type(toy_classifier())

    def build(swap, **fixnorm):
        torch.manual_seed(0)
        fixnorm = dict(plain_type=plain_type, swap=swap, **fixnorm)
        return MODELS.build(dict(type='FixNormModel', fixnorm=fixnorm, fc=nn.Linear(6, 3)))

    return build


def test_the_model_computes_what_the_plain_one_does_and_has_its_tensors(replaced) -> None:
    model = replaced({'head.fc': dict(type='FixNormLinear', alpha=100.0), r'backbone\.[03]': 'WNConv2d'})
    torch.manual_seed(0)
    plain = type(model)(fc=nn.Linear(6, 3))
    assert [type(m) for m in (model.head.fc, model.backbone[0], model.backbone[3])] == [
        FixNormLinear,
        WNConv2d,
        WNConv2d,
    ]
    assert set(model.state_dict()) - set(plain.state_dict()) == {'head.fc.g', 'backbone.0.g', 'backbone.3.g'}
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    torch.testing.assert_close(model(X), plain(X))
    # Proof that the new layers are the ones that run: the scale of a weight no longer matters.
    before = model(X).detach()
    with torch.no_grad():
        for layer in (model.head.fc, model.backbone[0]):
            layer.weight.mul_(3)
    torch.testing.assert_close(model(X), before)


def test_a_held_scale_is_in_no_optimizer_and_keeps_its_weight_in_the_set(replaced, toy_runner) -> None:
    model = replaced({'head.fc': 'WNLinear', r'backbone\.[03]': dict(type='WNConv2d', train_scale=False)})
    model.init_weights()
    held = [model.backbone[0], model.backbone[3]]
    before = [layer.g.clone() for layer in held]
    runner = toy_runner(model=model, epochs=1)
    runner.train()
    in_set = flagged(runner.optim_wrapper.optimizer)
    for layer, g in zip(held, before, strict=True):
        assert torch.equal(layer.g, g)
        assert any(layer.weight is tensor for tensor in in_set)
    assert not any(name.startswith('backbone') and name.endswith('.g') for name, _ in model.named_parameters())
    assert 'backbone.0.g' in model.state_dict()


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_average_of_weights_has_the_held_scale(replaced, update_buffers) -> None:
    model = replaced({'backbone.0': dict(type='WNConv2d', train_scale=False)})
    average = ExponentialMovingAverage(model, momentum=0.1, update_buffers=update_buffers)
    g = model.backbone[0].g.clone()
    for _ in range(3):
        with torch.no_grad():
            model.backbone[0].weight.mul_(1.5)
        average.update_parameters(model)
    assert not torch.equal(average.module.backbone[0].weight, model.backbone[0].weight)
    assert torch.equal(average.module.backbone[0].g, g)


def test_it_is_done_before_a_runner_takes_the_parameters(replaced, toy_runner) -> None:
    model = replaced({'head.fc': 'FixNormLinear'}, alpha=2.0)
    g = model.head.fc.g.item()
    runner = toy_runner(model=model, epochs=1)
    runner.train()
    optimizer = runner.optim_wrapper.optimizer
    assert {id(p) for group in optimizer.param_groups for p in group['params']} == {id(p) for p in model.parameters()}
    assert any(model.head.fc.weight is tensor for tensor in flagged(optimizer))
    assert model.head.fc.g.item() != g


def test_alpha_is_read_back_from_the_layers_themselves(replaced) -> None:
    model = replaced({'head.fc': 'FixNormLinear'}, alpha=2.0)
    assert built_value(model, 'model.fixnorm.alpha') == 2.0
    model.head.fc.alpha = 7.0
    assert built_value(model, 'model.fixnorm.alpha') == 7.0
    assert copy.deepcopy(model).fixnorm.alpha == 7.0
    with pytest.raises(ConfigError, match=r'have the bounds \[\]'):
        replaced({'head.fc': 'WNLinear'}).fixnorm.alpha  # noqa: B018


@pytest.mark.parametrize(
    'fixnorm, message',
    [
        (dict(swap={'head.fx': 'WNLinear'}), r"swap\['head.fx'\]: must match an nn.Linear, it matches no module"),
        (dict(swap={'backbone.0': 'WNLinear'}), "must match an nn.Linear, it matches {'backbone.0': 'Conv2d'}"),
        (dict(swap={'head.fc': 'WNLinears'}), "must be one of .*'WNLinear'.*, got 'WNLinears'"),
        (dict(swap={'head.fc': 'FixNormLinear'}), 'FixNormLinear needs alpha'),
        (dict(swap={'head.fc': dict(type='WNLinear', alpha=1)}), r"WNLinear does not take \['alpha'\]"),
        (dict(swap={'head.fc': 'WNLinear', r'.*fc': 'WNLinear'}), "'head.fc' and '.*fc' both match head.fc"),
        (
            dict(swap={'head.fc': dict(type='WNLinear', train_scale=0)}),
            r"swap\['head.fc'\].train_scale: must be True or False, got 0",
        ),
        (dict(swap={}), 'fixnorm.swap: must be set'),
        (dict(swap={'head.fc': 'WNLinear'}, alphas=1), r"takes plain_type, swap and alpha, got \['alphas'\]"),
    ],
)
def test_a_mistake_is_told_with_its_key(replaced, fixnorm, message) -> None:
    with pytest.raises(ConfigError, match=message):
        replaced(**fixnorm)


def test_a_layer_that_computes_something_of_its_own_is_refused() -> None:
    attention = nn.MultiheadAttention(4, 2)  # uses the weight of out_proj and never calls it
    assert not is_plain_layer(attention.out_proj)
    with pytest.raises(ConfigError, match='out_proj is a NonDynamicallyQuantizableLinear'):
        replace_layers_by_path(attention, {'out_proj': 'WNLinear'})
    assert is_plain_layer(nn.Linear(2, 2))


def test_a_shared_layer_is_replaced_once_under_all_its_names() -> None:
    layer = nn.Linear(3, 3)
    model = nn.ModuleDict(dict(a=layer, b=layer))
    replace_layers_by_path(model, {'a': 'WNLinear'})
    assert isinstance(model['a'], WNLinear)
    assert model['a'] is model['b']


def test_the_block_of_the_config_goes_into_its_model() -> None:
    cfg = Config(dict(model=dict(type='ImageClassifier', head=dict(x=1)), fixnorm=dict(swap={'head.fc': 'WNLinear'})))
    move_fixnorm_into_model(cfg)
    assert cfg.to_dict() == dict(
        model=dict(
            type='FixNormModel',
            head=dict(x=1),
            fixnorm=dict(swap={'head.fc': 'WNLinear'}, plain_type='ImageClassifier'),
        )
    )
    cfg.fixnorm = dict(swap={'head.fc': 'WNLinear'})
    with pytest.raises(ConfigError, match='write the block into model.fixnorm'):
        move_fixnorm_into_model(cfg)
    plain = Config(dict(model=dict(type='A')))
    move_fixnorm_into_model(plain)
    assert plain.to_dict() == dict(model=dict(type='A'))


def test_the_config_is_the_same_after_a_runner_has_written_it(tmp_path) -> None:
    held = dict(type='WNConv2d', train_scale=False)
    swap = {'head.fc': 'FixNormLinear', r'backbone\..*\.se_layer\..*': 'WNConv2d', r'backbone\.layer\d+\..*': held}
    cfg = Config(dict(model=dict(type='FixNormModel', fixnorm=dict(plain_type='A', alpha=1.0, swap=swap))))
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize('block', [RepVGGBlock, MobileOneBlock])
def test_switch_to_deploy_keeps_the_outputs_of_replaced_layers(block) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(block(4, 4, **{} if block is RepVGGBlock else dict(kernel_size=3, num_convs=2))).eval()
    replaced = replace_layers_by_path(model, {r'.*\.conv': 'WNConv2d'}).layers
    assert len(replaced) > 1
    with torch.no_grad():
        for layer in replaced.values():
            layer.g.mul_(0.5)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    model = copy.deepcopy(model).double()  # a copy switches its own layers
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    before = model(x)
    model[0].switch_to_deploy()
    assert [type(m) for m in model.modules() if isinstance(m, nn.Conv2d)] == [nn.Conv2d]
    torch.testing.assert_close(model(x), before)
