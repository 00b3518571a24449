"""Every classification config: what it says, and one real training step of it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import FUNCTIONS
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image

from mmfixnorm.search.methods import parse_settings

CONFIGS = Path(__file__).parents[2] / 'configs'
# in tests/peers
PEERS = ('sgdp', 'adamp', 'per-layer', 'bounded-wn', 'shifted-l2', 'exp-lr', 'lr-correction')
PEERS += ('lars', 'lamb', 'hyperball', 'rotational', 'adamc', 'wd-clip')
ADAMW_NETWORKS = ('deit-', 'convnext-')  # in test_adamw_networks.py
PATHS = sorted(
    path
    for path in [*(CONFIGS / 'digits').glob('resnet8_*.py'), *(CONFIGS / 'cifar10').glob('*.py')]
    if not any(f'_{peer}_' in path.stem for peer in PEERS) and not path.stem.startswith(ADAMW_NETWORKS)
)
NAMES = [path.stem for path in PATHS]
NAME = re.compile(
    r'(?P<model>[a-z0-9-]+)_(?P<method>wd|alg1|wn-fc|wd-grid|angle|fixnorm(-grid|-per-layer|-equal|-set|-auto-alpha)?)'
    r'_1xb(?P<batch>\d+)-(?P<epochs>\d+)e_(?P<data>digits|cifar10)(-(?P<thousands>\d)k)?'
)
WRAPPER = {
    'optim_wrapper.type': 'FixNormOptimWrapper',
    'optim_wrapper.constructor': 'FixNormOptimWrapperConstructor',
    'optim_wrapper.optimizer.weight_decay': 0.0,
}
PER_LAYER = WRAPPER | {
    'optim_wrapper.type': 'PerLayerFixNormOptimWrapper',
    'model.head.type': 'FixNormLinearClsHead',
    'custom_imports.imports': ['mmfixnorm.cls', 'mmfixnorm.peers'],
}
AUTO_ALPHA = [
    dict(type='WeightNormLoggerHook', interval=100, per_layer=False),
    dict(type='CrossBoundaryRiskHook', interval=100),
    dict(type='ClassCheckHook'),
    dict(type='AutoAlphaHook'),
]
#: What a method sets and the weight-decay baseline does not, besides `search` and the two numbers
#: that are tuned.
DIFFERENCES = {
    'wd-grid': {},
    'alg1': WRAPPER | {'optim_wrapper.paramwise_cfg.lambda_fc': 1e-4},
    'wn-fc': WRAPPER | {'model.head.type': 'WNLinearClsHead'},
    'fixnorm': WRAPPER | {'model.head.type': 'FixNormLinearClsHead'},
    'angle': WRAPPER
    | {'model.head.type': 'FixNormLinearClsHead', 'optim_wrapper.update': 'angle', 'optim_wrapper.per': 'layer'},
    'fixnorm-grid': WRAPPER | {'model.head.type': 'FixNormLinearClsHead'},
    'fixnorm-per-layer': PER_LAYER,
    'fixnorm-equal': PER_LAYER | {'optim_wrapper.targets': 'equal'},
    'fixnorm-set': PER_LAYER | {r'optim_wrapper.targets.^head\.fc': 32.0},
    'fixnorm-auto-alpha': WRAPPER | {'model.head.type': 'FixNormLinearClsHead', 'custom_hooks': AUTO_ALPHA},
}
TUNED = {'optim_wrapper.optimizer.lr', 'model.head.alpha'}

every_config = pytest.mark.parametrize('path', PATHS, ids=NAMES)


def one_batch(cfg: Config, folder: Path) -> dict:
    """A batch of generated images that went through the config's own training pipeline."""
    size = next(t.crop_size for t in cfg.train_pipeline if t.type == 'RandomCrop')
    pixels = np.random.RandomState(0).randint(0, 256, (8, size, size, 3), dtype=np.uint8)
    pipeline = Compose([TRANSFORMS.build(t) for t in cfg.train_dataloader.dataset.pipeline])
    samples = []
    for label, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f'{label}.png')
        samples.append(pipeline(dict(img_path=str(folder / f'{label}.png'), gt_label=label)))
    return FUNCTIONS.get(cfg.train_dataloader.collate_fn.type)(samples)


def test_there_are_five_methods_for_each_network():
    found = {(m['model'], m['data'], m['thousands'], m['method']) for m in map(NAME.fullmatch, NAMES) if m}
    networks = [('resnet8', 'digits', None), ('resnet8', 'cifar10', '2'), ('resnet20', 'cifar10', '5')]
    networks += [('resnet18', 'cifar10', None), ('mobilenet-v2', 'cifar10', None)]
    assert found >= {(*n, method) for n in networks for method in ('wd', 'alg1', 'wn-fc', 'fixnorm', 'angle')}


@every_config
def test_the_name_says_what_is_inside(load, path):
    cfg, name = load(path), NAME.fullmatch(path.stem)
    assert name is not None
    assert cfg.train_dataloader.batch_size == int(name['batch']) == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_epochs == int(name['epochs'])
    assert cfg.data_root == f'data/{name["data"]}'
    if name['data'] == 'cifar10':  # ten classes
        assert cfg.train_dataloader.dataset.subset == (100 * int(name['thousands']) if name['thousands'] else 4500)


@every_config
def test_the_schedule_is_a_short_warm_up_and_one_cosine_to_the_end(load, path):
    cfg = load(path)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.begin, warmup.end, cosine.end) == (0, cosine.begin, cfg.train_cfg.max_epochs)
    assert cosine.T_max == cosine.end - cosine.begin
    assert warmup.end / cosine.end <= 0.05


@every_config
def test_trials_are_ranked_on_images_that_are_neither_trained_on_nor_the_test_set(load, path):
    cfg = load(path)
    train, val, test = (cfg[f'{s}_dataloader'].dataset for s in ('train', 'val', 'test'))
    assert test.data_root not in (train.data_root, val.data_root)
    if train.data_root == val.data_root:
        assert train.subset <= val.subset[0]
        assert train.get('subset_seed') == val.get('subset_seed')


@every_config
def test_its_search_block_is_valid_and_its_own_lr_lies_inside(load, path):
    cfg = load(path)
    method = NAME.fullmatch(path.stem)['method']
    if method == 'wd':
        assert 'search' not in cfg
        return
    settings = parse_settings(cfg.search)
    is_grid = method in ('alg1', 'wn-fc', 'wd-grid', 'fixnorm-grid', 'fixnorm-auto-alpha')
    assert settings.kind == ('GridSearch' if is_grid else 'FixNormSearch')
    tried = settings.lr_range or settings.lrs
    assert min(tried) <= cfg.optim_wrapper.optimizer.lr <= max(tried)


@pytest.mark.parametrize('path', [p for p in PATHS if NAME.fullmatch(p.stem)['method'] != 'wd'], ids=lambda p: p.stem)
def test_a_method_differs_from_weight_decay_in_what_it_claims_alone(load, flat, path):
    method = NAME.fullmatch(path.stem)['method']
    baseline = flat(load(path.with_name(path.name.replace(f'_{method}_', '_wd_'))).to_dict())
    ours = flat(load(path).to_dict())
    changed = {k: ours.get(k) for k in ours.keys() | baseline.keys() if ours.get(k) != baseline.get(k)}
    rest = {k: v for k, v in changed.items() if not k.startswith('search.') and k not in TUNED}
    assert rest == DIFFERENCES[method]


@every_config
def test_one_training_step_on_generated_images(load, path, tmp_path):
    cfg = load(path)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.init_weights()
    model.train()
    model.head.waits_for_alpha = False  # without a Runner there is no AutoAlphaHook to say so
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    losses = model.train_step(one_batch(cfg, tmp_path), optim_wrapper)

    assert torch.isfinite(losses['loss'])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert 'backbone.conv1.weight' in moved or 'backbone.conv1.conv.weight' in moved
    assert {'head.fc.weight', 'head.fc.bias'} <= moved


@every_config
def test_only_the_baseline_decays_convolutions_and_nothing_decays_bias_or_norm_layers(load, path):
    cfg = load(path)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    method = NAME.fullmatch(path.stem)['method']
    expected = {'conv': 1e-4 * method.startswith('wd'), 'fc': 1e-4 * (method in ('wd', 'wd-grid', 'alg1'))}
    for name, p in model.named_parameters():
        kind = 'fc' if name == 'head.fc.weight' else 'conv' if p.ndim == 4 else 'other'
        assert decay[id(p)] == expected.get(kind, 0.0), name
    assert len(decay) == len(list(model.parameters()))
