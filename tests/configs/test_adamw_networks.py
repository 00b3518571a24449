"""DeiT and ConvNeXt on CIFAR-10: what their four configs say, and a few steps of each on images."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmfixnorm.convert.angle import wrapper_by_angle
from mmfixnorm.core.layers import WeightNormalized, fill_scales
from mmfixnorm.core.membership import flagged
from mmfixnorm.search.methods import parse_settings

FOLDER = Path(__file__).parents[2] / 'configs/cifar10'
METHODS = ('adamw', 'fixnorm', 'angle-sgd', 'angle')
PATHS = {
    (network, method): FOLDER / f'{network}-thin_{method}_1xb128-20e_cifar10-5k.py'
    for network in ('deit', 'convnext')
    for method in METHODS
}
#: Type of the optimizer, lr, type and lr of the search.
EXPECTED = {
    'adamw': ('AdamW', 2e-3, 'GridSearch', (2.5e-4, 0.016)),
    'fixnorm': ('AdamW', 2e-3, 'FixNormSearch', (2.5e-4, 0.016)),
    'angle-sgd': ('SGD', 0.02, 'FixNormSearch', (0.004, 0.064)),
    'angle': ('AdamW', 0.02, 'FixNormSearch', (0.004, 0.064)),
}
#: Learning rate of the parameters outside the set, in parts of that of the set.
OTHER_LR = {'adamw': 1.0, 'fixnorm': 1.0, 'angle-sgd': 20.0, 'angle': 0.4}

each = pytest.mark.parametrize('network, method', [pytest.param(*key, id='-'.join(key)) for key in PATHS])


def built(cfg: Config) -> tuple[nn.Module, OptimWrapper]:
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.init_weights()
    fill_scales(model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return model.train(), wrapper


def test_these_are_all():
    found = {path for network in ('deit', 'convnext') for path in FOLDER.glob(f'{network}*.py')}
    assert found == {*PATHS.values()}


@each
def test_data_and_schedule_are_those_of_resnet20_held_in_memory(load, network, method):
    cfg, other = load(PATHS[network, method]), load(FOLDER / 'resnet20_wd_1xb128-20e_cifar10-5k.py')
    for key in ('param_scheduler', 'train_cfg', 'custom_hooks'):
        assert cfg[key] == other[key]
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader, usual = cfg[key], other[key]
        assert loader.dataset.type == 'InMemoryDataset'
        assert (loader.batch_size, loader.sampler) == (usual.batch_size, usual.sampler)
        own = [
            {k: v for k, v in images.items() if k != 'pipeline'} for images in (loader.dataset.dataset, usual.dataset)
        ]
        assert own[0] == own[1]
        assert loader.num_workers == 0


@each
def test_optimizer_and_search(load, network, method):
    cfg = load(PATHS[network, method])
    kind, lr, search, lr_range = EXPECTED[method]
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == (kind, lr)
    settings = parse_settings(cfg.search)
    assert (settings.kind, settings.lr_range) == (search, lr_range)
    assert (cfg.optim_wrapper.get('update'), cfg.optim_wrapper.get('per')) == (
        ('angle', 'layer') if method.startswith('angle') else (None, None)
    )


@each
def test_what_decays_and_with_which_learning_rate_it_trains(load, network, method):
    cfg = load(PATHS[network, method])
    model, wrapper = built(cfg)
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group['params']}
    layers = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    in_set = {id(weight) for weight in flagged(wrapper.optimizer)}
    assert in_set == (set() if method == 'adamw' else layers)
    for name, param in model.named_parameters():
        group, is_weight = groups[id(param)], id(param) in layers
        assert group['weight_decay'] == (0.05 if method == 'adamw' and is_weight else 0.0), name
        factor = 1.0 if is_weight else OTHER_LR[method]
        assert group['lr'] == pytest.approx(factor * cfg.optim_wrapper.optimizer.lr), name
    assert 3e5 < sum(param.numel() for param in model.parameters()) < 8e5


@pytest.mark.parametrize('network', ['deit', 'convnext'])
def test_by_angle_they_are_as_the_converter_writes_them(load, network):
    plain, by_angle = (load(PATHS[network, method]) for method in ('adamw', 'angle'))
    converted, _ = wrapper_by_angle(plain, {})
    own = by_angle.optim_wrapper
    assert {key: converted[key] for key in ('update', 'per', 'other_lr')} == {
        key: own[key] for key in ('update', 'per', 'other_lr')
    }
    assert converted['optimizer']['lr'] == own.optimizer.lr


@pytest.mark.parametrize('network', ['deit', 'convnext'])
def test_every_layer_is_weight_normalised_and_the_classifier_has_the_bound(load, network):
    model, _ = built(load(PATHS[network, 'fixnorm']))
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert all(isinstance(layer, WeightNormalized) for layer in layers.values())
    bounded = [name for name, layer in layers.items() if layer.scale_bound < float('inf')]
    assert bounded == [{'deit': 'head.layers.head', 'convnext': 'head.fc'}[network]]


def losses_on(cfg: Config, batch: dict, steps: int) -> list[float]:
    """Losses of steps on the same batch, at the full learning rate."""
    model, wrapper = built(cfg)
    return [model.train_step(batch, wrapper)['loss'].item() for _ in range(steps)]


def fixed_batch(cfg: Config) -> dict:
    pixels = torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    return dict(inputs=pixels, data_samples=[DataSample().set_gt_label(i % 10) for i in range(16)])


@each
def test_the_loss_falls_on_generated_images(load, network, method):
    cfg = load(PATHS[network, method])
    losses = losses_on(cfg, fixed_batch(cfg), 20)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert min(losses[-5:]) < losses[0] - 0.1, losses
