"""The ImageNet configs: what the rows of Tables 1 and 2 and the figures say, and what is in their norm-fixing sets."""

import math
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import modelindex
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mmfixnorm.core import WNConv2d, norm_fixing_parameters
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.membership import flagged
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.trial.schedule import scale_schedule

CONFIGS = Path(__file__).parents[2] / 'configs'
PATHS = sorted((CONFIGS / 'imagenet').glob('*.py'))
NAME = re.compile(
    r'(?P<model>(resnet50|mobilenet-v2|efficientnet)[a-z0-9-]*)'
    r'_(?P<method>wd|wd-grid|bo-wd|alg1|wn-fc|fixnorm|fixnorm-grid|angle)_16xb64-(?P<epochs>\d+)e_imagenet'
)
#: Tables 1 and 2: top-1 and reference, lr and alpha; lr and weight decay of the reference
ROWS = {
    ('mobilenet-v2', 150): (73.20, 72.04, 0.5, 16.0, 0.2, 4e-5),
    ('mobilenet-v2', 350): (73.97, 73.38, 0.35, 8.0, 0.2, 4e-5),
    ('efficientnet-b0', 350): (77.72, 77.30, 0.5, 4.0, 0.064, 1e-5),
    ('efficientnet-b1', 350): (79.52, 79.20, 0.8, 8.0, 0.064, 1e-5),
    ('mobilenet-v2-x112-tricks', 350): (77.40, 76.72, 0.5, 8.0, 0.2, 4e-5),
    ('mobilenet-v2-x154-tricks', 350): (79.18, 78.75, 0.65, 4.0, 0.2, 4e-5),
    ('resnet50-d', 120): (78.62, 78.37, 1.4, 0.5, 0.4, 1e-4),
    ('resnet50-d', 350): (79.29, 79.04, 1.1, 0.5, 0.4, 1e-4),
    ('resnet50-d-tricks', 350): (81.27, 80.80, 1.1, 1.0, 0.4, 1e-4),
}
#: Table 1, BO + WD: top-1, lr, weight decay, number of trainings
BAYESIAN = {('resnet50-d', 120): (78.53, 0.53, 8.6e-5, 25), ('mobilenet-v2', 150): (72.84, 0.64, 2.2e-5, 35)}
FIGURES = {(100, m) for m in ('wd', 'wd-grid', 'alg1', 'wn-fc', 'fixnorm', 'angle')} | {(50, 'fixnorm-grid')}
WITH_AUTO_AUGMENT = ('efficientnet-b0', 'efficientnet-b1', *(m for m, _ in ROWS if m.endswith('-tricks')))
#: Convolutions outside of SE, layers inside of SE, by hand from the architectures
SIZES = {
    'resnet50': (1 + 3 * 16 + 4, 0),
    'resnet50-d': (3 + 3 * 16 + 4, 0),
    'resnet50-d-tricks': (3 + 3 * 16 + 4, 2 * 16),
    'mobilenet-v2': (2 + 3 * 17 - 1, 0),
    'mobilenet-v2-x112-tricks': (2 + 3 * 17 - 1, 2 * 17),
    'mobilenet-v2-x154-tricks': (2 + 3 * 17 - 1, 2 * 17),
    'efficientnet-b0': (2 + 3 * 16 - 1, 2 * 16),
    'efficientnet-b1': (2 + 3 * 23 - 2, 2 * 23),
}
WRAPPER = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')


class Parts(NamedTuple):
    model: str
    method: str
    epochs: int

    @property
    def row(self) -> tuple[str, int]:
        return self.model, self.epochs

    @property
    def fixes_norm(self) -> bool:
        return self.method in ('alg1', 'wn-fc', 'fixnorm', 'fixnorm-grid', 'angle')


def parts(path: Path) -> Parts:
    match = NAME.fullmatch(path.stem)
    assert match is not None
    return Parts(match['model'], match['method'], int(match['epochs']))


def named(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


every_config = named(PATHS)
fixing_configs = named([path for path in PATHS if parts(path).fixes_norm])


@cache
def built(path: Path) -> tuple[Config, nn.Module, torch.optim.Optimizer]:
    """Not to be changed: shared by the tests of a config."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    return cfg, model, build_optim_wrapper(model, cfg.optim_wrapper).optimizer


def test_there_is_a_config_for_every_row_and_every_curve():
    found = {parts(path) for path in PATHS}
    rows = {Parts(model, method, epochs) for model, epochs in ROWS for method in ('wd', 'fixnorm')}
    bayesian = {Parts(model, 'bo-wd', epochs) for model, epochs in BAYESIAN}
    assert found == rows | bayesian | {Parts('resnet50', method, epochs) for epochs, method in FIGURES}


@every_config
def test_lr_weight_decay_and_alpha_are_the_tables(path):
    cfg, (model, method, epochs) = Config.fromfile(path), parts(path)
    optimizer, alpha = cfg.optim_wrapper.optimizer, cfg.model.head.get('alpha')
    found = (optimizer.lr, optimizer.weight_decay, alpha)
    if model == 'resnet50':  # the paper prints the baseline's two numbers only
        if method.startswith('wd'):
            assert found == (0.4, 1e-4, None)
        return
    _, _, lr, best_alpha, reference_lr, weight_decay = ROWS[model, epochs]
    expected = {'fixnorm': (lr, 0.0, best_alpha), 'wd': (reference_lr, weight_decay, None)}
    if method == 'bo-wd':
        expected['bo-wd'] = (*BAYESIAN[model, epochs][1:3], None)
    assert found == expected[method]


@every_config
def test_the_set_up_is_that_of_section_3(path):
    cfg, name = Config.fromfile(path), parts(path)
    assert 16 * cfg.train_dataloader.batch_size == 1024
    assert cfg.auto_scale_lr == dict(base_batch_size=1024, enable=False)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == name.epochs
    assert cfg.model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert 'train_cfg' not in cfg.model  # no mixup
    assert cfg.model.head.num_classes == 1000
    own_reference = name.model.startswith('efficientnet') and name.method == 'wd'
    momentum = {k: cfg.optim_wrapper.optimizer.get(k) for k in ('type', 'momentum', 'nesterov')}
    assert momentum == (
        dict(type='RMSprop', momentum=0.9, nesterov=None)
        if own_reference
        else dict(type='SGD', momentum=0.9, nesterov=True)
    )


@every_config
def test_the_images_are_the_paper_s(path):
    cfg, name = Config.fromfile(path), parts(path)
    kinds = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert ('AutoAugment' in kinds) == (name.model in WITH_AUTO_AUGMENT)
    assert kinds.index('RandomFlip') == 2
    size = 240 if name.model == 'efficientnet-b1' else 224
    crop = cfg.train_dataloader.dataset.pipeline[1]
    assert crop == dict(type=crop.type, scale=size)
    assert [t.crop_size for t in cfg.test_dataloader.dataset.pipeline if 'crop_size' in t] == [size]
    assert cfg.val_dataloader == cfg.test_dataloader
    assert [cfg[f'{mode}_dataloader'].dataset.split for mode in ('train', 'val')] == ['train', 'val']


@fixing_configs
def test_settings_of_the_two_trainings_do_not_mix(path):
    """A config with norm fixing is the plain one but for what its method says."""
    ours, name = Config.fromfile(path), parts(path)
    plain = Config.fromfile(
        path.with_name(f'{name.model}_wd_16xb64-{100 if name.epochs == 50 else name.epochs}e_imagenet.py')
    )
    assert {key: ours.optim_wrapper[key] for key in WRAPPER} == WRAPPER
    by_angle = {key: ours.optim_wrapper.get(key) for key in ('update', 'per', 'other_lr')}
    assert by_angle == dict.fromkeys(by_angle) | (dict(update='angle', per='layer') if name.method == 'angle' else {})
    decays = {'lambda_fc': 1e-4} if name.method == 'alg1' else {}
    assert ours.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0, bias_decay_mult=0.0, **decays)
    assert 'clip_grad' not in ours.optim_wrapper
    head = {'alg1': 'LinearClsHead', 'wn-fc': 'WNLinearClsHead'}.get(name.method, 'FixNormLinearClsHead')
    assert ours.model.head.type == head
    form = 'WN' if SIZES[name.model][1] else ''
    assert ours.model.backbone == {**plain.model.backbone, 'type': f'{form}{plain.model.backbone.type}'}
    assert ours.model.neck == plain.model.neck
    same = set(plain) - {'model', 'optim_wrapper', 'search', 'warmup', 'cosine', 'filename'}
    if name.epochs == 50:
        same -= {'train_cfg', 'param_scheduler'}
    if name.model.startswith('efficientnet'):  # its reference is trained in its own way
        same -= {'param_scheduler', 'custom_hooks'}
    assert {key: ours[key] for key in same} == {key: plain[key] for key in same}
    assert plain.optim_wrapper.type == 'OptimWrapper'
    assert 'constructor' not in plain.optim_wrapper


@every_config
def test_the_search_is_the_paper_s(path):
    cfg, name = Config.fromfile(path), parts(path)
    if name.method == 'wd':
        assert 'search' not in cfg
        return
    if name.method == 'bo-wd':
        ranges = dict(lr_range=(0.2, 3.2), weight_decay_range=(1e-5, 5e-4), num_trials=BAYESIAN[name.row][3])
        assert cfg.search == dict(type='BayesianSearch', metric='accuracy/top1', rule='greater', **ranges)
        settings = parse_settings(cfg.search)
        assert settings.tuned_keys['weight_decay'] == ('optim_wrapper.optimizer.weight_decay',)
        assert (settings.sampler, settings.fractions) == ('gp', (1.0,))
        return
    settings = parse_settings(cfg.search)
    assert settings.metric == 'accuracy/top1'
    if name.method in ('fixnorm', 'angle'):
        lr_range = (0.004, 0.064) if name.method == 'angle' else (0.2, 3.2)
        assert (settings.kind, settings.lr_range, settings.num_rounds) == ('FixNormSearch', lr_range, 2)
        assert settings.alphas == (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
        assert cfg.model.head.alpha in settings.alphas
        assert lr_range[0] <= cfg.optim_wrapper.optimizer.lr <= lr_range[1]
    elif name.method == 'fixnorm-grid':
        assert (settings.lrs, settings.alphas) == ((0.4, 1.0, 1.6, 2.2, 2.8), (0.5, 1.0, 2.0, 4.0, 8.0))
    else:
        assert (settings.kind, settings.lr_range, settings.num_splits) == ('GridSearch', (0.2, 3.2), 5)


def curve(cfg: Config, epoch_length: int) -> list[float]:
    """The learning rate of every iteration, by mmengine's schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.optim_wrapper.optimizer.lr)
    by_iter, by_epoch = [], []
    for settings in cfg.param_scheduler:
        settings = dict(settings, optimizer=optimizer)
        if settings.pop('convert_to_iter_based', False):
            build = PARAM_SCHEDULERS.get(settings.pop('type')).build_iter_from_epoch
            by_iter.append(build(**settings, epoch_length=epoch_length))
        else:
            by_epoch.append(PARAM_SCHEDULERS.build(settings))
    found = []
    for i in range(cfg.train_cfg.max_epochs * epoch_length):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in [*by_iter, *(by_epoch if (i + 1) % epoch_length == 0 else [])]:
            scheduler.step()
    return found


def closed_form(lr: float, epochs: float, warmup: float, epoch_length: int) -> list[float]:
    """Linear from a hundredth, reached in the warm-up's last iteration, then half a cosine."""
    begin, end = round(warmup * epoch_length), round(epochs * epoch_length)
    rising = [lr * (0.01 + 0.99 * t / (begin - 1)) for t in range(begin)]
    return rising + [lr * (1 + math.cos(math.pi * t / (end - begin))) / 2 for t in range(end - begin)]


@pytest.mark.parametrize('fraction', [1.0, 0.2])
@named([p for p in PATHS if not ('efficientnet' in p.stem and parts(p).method == 'wd')])
def test_lr_is_a_warm_up_of_four_epochs_and_one_cosine(path, fraction):
    cfg = scale_schedule(Config.fromfile(path), fraction)
    epochs, lr, epoch_length = parts(path).epochs, cfg.optim_wrapper.optimizer.lr, 10
    assert cfg.train_cfg.max_epochs == epochs * fraction
    found = curve(cfg, epoch_length)
    expected = closed_form(lr, epochs * fraction, 4 * fraction, epoch_length)
    assert found == pytest.approx(expected, rel=1e-9)
    warmup = round(4 * fraction * epoch_length)
    middle = warmup + (len(found) - warmup) // 2
    assert (found[0], found[warmup - 1], found[middle]) == pytest.approx((0.01 * lr, lr, lr / 2), rel=2e-2)
    assert found[-1] < 1e-3 * lr


@named([p for p in PATHS if parts(p).method == 'wd' and 'efficientnet' in p.stem])
def test_the_reference_of_efficientnet_falls_by_three_percent_each_2_4_epochs(path):
    cfg, epoch_length = Config.fromfile(path), 20
    found = curve(cfg, epoch_length)
    expected = [0.064 * 0.97 ** ((epoch - 5) / 2.4) for epoch in range(5, 350) for _ in range(epoch_length)]
    assert found[5 * epoch_length :] == pytest.approx(expected, rel=1e-6)
    assert found[: 5 * epoch_length] == pytest.approx([0.064 * t / 99 for t in range(100)], abs=1e-6)


@fixing_configs
def test_the_set_is_every_convolution_and_linear_layer_with_the_size_counted_by_hand(path):
    _, model, optimizer = built(path)
    name, names = parts(path), {id(p): n for n, p in model.named_parameters()}
    found = {names[id(p)] for p in flagged(optimizer)}
    layers = {f'{n}.weight' for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert found == layers - ({'head.fc.weight'} if name.method == 'alg1' else set())
    convs, in_se = SIZES[name.model]
    assert len(found) == convs + in_se + (name.method != 'alg1')
    normalised = [n for n, m in model.named_modules() if isinstance(m, WNConv2d)]
    assert len(normalised) == in_se
    assert all('.se.' in n or '.se_layer.' in n for n in normalised)


@every_config
def test_only_the_plain_form_decays_and_never_bias_or_norm_layers(path):
    cfg, model, optimizer = built(path)
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    name = parts(path)
    for key, p in model.named_parameters():
        weight = p.ndim > 1
        expected = 0.0
        if weight and not name.fixes_norm:
            expected = cfg.optim_wrapper.optimizer.weight_decay
        if key == 'head.fc.weight' and name.method == 'alg1':
            expected = 1e-4
        assert decay[id(p)] == expected, key


@named([path for path in PATHS if not parts(path).fixes_norm])
def test_the_plain_form_has_no_weight_normalised_layer(path):
    assert not any(isinstance(m, WeightNormalized) for m in built(path)[1].modules())


FIXNORM = [p for p in PATHS if parts(p).method == 'fixnorm' and (parts(p).row in ROWS or parts(p).model == 'resnet50')]
ONE_EACH = list({parts(p).model: p for p in FIXNORM}.values())


@torch.no_grad()
def change_of_logits(model: nn.Module, factor: float) -> float:
    """How far the logits move, in units of the largest, when the whole set is multiplied; in training mode."""
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def logits() -> torch.Tensor:
        torch.manual_seed(0)  # stochastic depth and dropout
        return model(images, mode='tensor')

    before = logits()
    for weight in norm_fixing_parameters(model).values():
        weight.mul_(factor)
    return ((logits() - before).abs().max() / before.abs().max()).item()


@pytest.mark.slow
@named(ONE_EACH)
def test_multiplying_the_whole_set_by_three_changes_no_logit(path, alive):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    assert change_of_logits(alive(MODELS.build(cfg.model)), 3.0) < 1e-4


@pytest.mark.slow
@named([p for p in ONE_EACH if SIZES[parts(p).model][1]])
def test_with_plain_se_blocks_the_logits_do_change(path, alive):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.type = cfg.model.backbone.type.removeprefix('WN')
    torch.manual_seed(0)
    assert change_of_logits(alive(MODELS.build(cfg.model)), 3.0) > 1e-2


def test_the_model_index_has_the_paper_s_results_and_says_so():
    models = {m.name: m for m in modelindex.load(str(CONFIGS.parent / 'model-index.yml')).models}
    for path in PATHS:
        name = parts(path)
        if name.method.endswith('-grid'):
            continue
        model = models[path.stem]
        if name.model == 'resnet50':
            assert not model.results[0].metrics
            continue
        expected = BAYESIAN[name.row][0] if name.method == 'bo-wd' else ROWS[name.row][name.method == 'wd']
        assert list(model.results[0].metrics.values()) == [expected]
        assert 'reported by the paper, not yet measured' in model.metadata.data['Results Source']
