"""Each peer's config: what it changes of the baseline, two steps of it through a Runner, and who decays what."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mmfixnorm.search.methods import parse_settings

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cifar10'
# name -> optim wrapper, optimizer, weight decay of the convolutions, of the classifier
PEERS = {
    'sgdp': ('OptimWrapper', 'SGDP', 1e-4, 1e-4),
    'adamp': ('OptimWrapper', 'AdamP', 1e-2, 1e-2),
    'per-layer': ('PerLayerFixNormOptimWrapper', 'SGD', 0.0, 1e-4),
    'bounded-wn': ('OptimWrapper', 'SGD', 0.0, 1e-4),
    'shifted-l2': ('OptimWrapper', 'SGD', 0.0, 1e-4),
    'exp-lr': ('OptimWrapper', 'SGD', 0.0, 1e-4),
    'lr-correction': ('OptimWrapper', 'SGD', 0.0, 1e-4),
    'lars': ('OptimWrapper', 'LARS', 1e-4, 1e-4),
    'lamb': ('OptimWrapper', 'Lamb', 1e-2, 1e-2),
    'hyperball': ('HyperballOptimWrapper', 'Muon', 0.0, 0.0),
    'rotational': ('RotationalOptimWrapper', 'SGD', 0.0, 1e-4),
    'adamc': ('OptimWrapper', 'AdamC', 1e-2, 1e-2),
    'wd-clip': ('OptimWrapper', 'SGD', 1e-4, 1e-4),
}
WIDE = ('lars', 'lamb', 'hyperball', 'rotational', 'adamc', 'wd-clip')
LIBRARY = ('sgdp', 'adamp', 'hyperball', 'adamc')
NO_DECAY = {
    'optim_wrapper.constructor': 'FixNormOptimWrapperConstructor',
    'optim_wrapper.optimizer.weight_decay': 0.0,
    'optim_wrapper.paramwise_cfg.lambda_fc': 1e-4,
}
DECAYED = {'optim_wrapper.constructor': 'DecayedGroupsOptimWrapperConstructor'}
ADAPTIVE = {'optim_wrapper.optimizer.momentum': None, 'optim_wrapper.optimizer.nesterov': None}
#: What each sets and the weight-decay baseline does not, besides the import, `search` and the learning rate. None: it
#: takes the key away.
DIFFERENCES = {
    'sgdp': {'optim_wrapper.optimizer.type': 'SGDP'},
    'adamp': {
        'optim_wrapper.optimizer.type': 'AdamP',
        'optim_wrapper.optimizer.weight_decay': 1e-2,
        'optim_wrapper.optimizer.momentum': None,
        'optim_wrapper.optimizer.nesterov': None,
    },
    'per-layer': NO_DECAY | {'optim_wrapper.type': 'PerLayerFixNormOptimWrapper'},
    'bounded-wn': NO_DECAY
    | {
        'model.backbone.conv_cfg.type': 'NormBoundedConv2d',
        'model.backbone.norm_cfg.type': 'MeanOnlyBatchNorm2d',
        'optim_wrapper.clip_grad.max_norm': 5,
    },
    'shifted-l2': NO_DECAY,
    'exp-lr': NO_DECAY | {'optim_wrapper.optimizer.nesterov': False},
    'lr-correction': NO_DECAY | {'optim_wrapper.constructor': 'PerLayerGroupsOptimWrapperConstructor'},
    'lars': DECAYED
    | {
        'optim_wrapper.optimizer.type': 'LARS',
        'optim_wrapper.paramwise_cfg.groups.no_decay.lr_mult': 0.025,
        'optim_wrapper.paramwise_cfg.groups.no_decay.lars_exclude': True,
    },
    'lamb': DECAYED
    | ADAPTIVE
    | {
        'optim_wrapper.optimizer.type': 'Lamb',
        'optim_wrapper.optimizer.weight_decay': 1e-2,
        'optim_wrapper.paramwise_cfg.groups.no_decay.lr_mult': 0.2,
    },
    'hyperball': ADAPTIVE
    | {
        'model.head.type': 'WNLinearClsHead',
        'optim_wrapper.type': 'HyperballOptimWrapper',
        'optim_wrapper.constructor': 'FixNormOptimWrapperConstructor',
        'optim_wrapper.optimizer.type': 'Muon',
        'optim_wrapper.optimizer.weight_decay': None,
        'optim_wrapper.other_lr': 0.1,
    },
    'rotational': NO_DECAY
    | {
        'optim_wrapper.type': 'RotationalOptimWrapper',
        'optim_wrapper.weight_decay': 1e-4,
        'optim_wrapper.optimizer.nesterov': False,
    },
    'adamc': DECAYED
    | ADAPTIVE
    | {
        'optim_wrapper.optimizer.type': 'AdamC',
        'optim_wrapper.optimizer.weight_decay': 1e-2,
        'optim_wrapper.paramwise_cfg.lambda_fc': 1e-2,
        'optim_wrapper.paramwise_cfg.groups.norm_fixing.normalized': True,
    },
    'wd-clip': {'optim_wrapper.clip_grad.max_norm': 1.0},
}
#: What each appends to a list of the baseline.
APPENDED = {
    'bounded-wn': {'custom_hooks': dict(type='WNScaleInitHook')},
    'shifted-l2': {'custom_hooks': dict(type='ShiftedL2Hook', weight_decay=1e-4, epsilon=1e-3)},
    'exp-lr': {'param_scheduler': dict(type='ExponentialGrowthLR', weight_decay=1e-4, by_epoch=False)},
    'lr-correction': {
        'custom_hooks': dict(type='LRCorrectionHook', reference='work_dirs/resnet20_wd_1xb128-20e_cifar10-5k')
    },
}


@DATASETS.register_module(force=True)
class SixteenImages(Dataset):
    """Noise in ten classes: two batches of eight."""

    metainfo = dict(classes=tuple('0123456789'))

    def __len__(self):
        return 16

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 16, 16), generator=generator, dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 10))


def load(method):
    return Config.fromfile(CONFIGS / f'resnet20_{method}_1xb128-20e_cifar10-5k.py')


def flat(value, prefix=''):
    """Dotted keys of a resolved config."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key in value for k, v in flat(value[key], f'{prefix}.{key}'.strip('.')).items()}


def test_every_peer_has_a_config_and_every_other_config_is_of_another_kind():
    found = {path.stem.split('_')[1] for path in CONFIGS.glob('resnet20_*.py')}
    forms = {f'fixnorm-{form}' for form in ('per-layer', 'equal', 'set', 'auto-alpha')}
    assert found == {*PEERS, *forms, 'wd', 'alg1', 'wn-fc', 'fixnorm', 'angle'}


@pytest.mark.parametrize('peer', PEERS)
def test_a_peer_differs_from_weight_decay_in_what_it_claims_alone(peer):
    ours, baseline = flat(load(peer).to_dict()), flat(load('wd').to_dict())
    changed = {k: ours.get(k) for k in ours.keys() | baseline.keys() if ours.get(k) != baseline.get(k)}
    rest = {k: v for k, v in changed.items() if not k.startswith('search.') and k != 'optim_wrapper.optimizer.lr'}
    if peer != 'wd-clip':  # which needs nothing of this package
        assert rest.pop('custom_imports.imports') == ['mmfixnorm.cls', 'mmfixnorm.peers']
    for key, appended in APPENDED.get(peer, {}).items():
        assert rest.pop(key) == [*baseline[key], appended]
    assert rest == DIFFERENCES[peer]


@pytest.mark.parametrize('peer', PEERS)
def test_all_search_five_learning_rates_at_full_length_and_their_own_is_among_them(peer):
    cfg = load(peer)
    settings = parse_settings(cfg.search)
    assert (settings.kind, settings.num_splits) == ('GridSearch', 5)
    low, high = settings.lr_range
    assert high / low == pytest.approx(64 if peer in WIDE else 16)  # the best of the wide ones is not measured
    assert low <= cfg.optim_wrapper.optimizer.lr <= high


def train(cfg, work_dir):
    """Train by the config, but on a network of a quarter of the size and on two small batches."""
    cfg.model.backbone.update(depth=8, base_channels=4)
    cfg.model.head.in_channels = 16
    torch.manual_seed(0)
    runner = Runner(
        model=dict(**cfg.model, data_preprocessor=cfg.data_preprocessor),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=8,
            num_workers=0,
            dataset=dict(type='SixteenImages'),
            sampler=cfg.train_dataloader.sampler,
            collate_fn=cfg.train_dataloader.collate_fn,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        custom_hooks=cfg.custom_hooks,
        default_scope=cfg.default_scope,
        randomness=cfg.randomness,
        log_level='WARNING',
        experiment_name=Path(work_dir).name,
    )
    runner.train()
    return runner


@pytest.mark.parametrize('peer', PEERS)
def test_its_config_trains_and_decays_what_the_method_says(peer, tmp_path, forget_runs):
    cfg = load(peer)
    if peer == 'lr-correction':
        reference = load('wd')
        reference.merge_from_dict({'custom_hooks.0.per_layer': True, 'custom_hooks.0.interval': 1})  # as its file says
        train(reference, tmp_path / 'reference')
        forget_runs()
        cfg.custom_hooks[-1].reference = str(tmp_path / 'reference')
    wrapper, optimizer, conv_decay, fc_decay = PEERS[peer]
    if peer in LIBRARY:
        pytest.importorskip('pytorch_optimizer')

    runner = train(cfg, tmp_path / 'run')

    assert runner.iter == 2
    assert type(runner.optim_wrapper).__name__ == wrapper
    assert type(runner.optim_wrapper.optimizer).__name__ == optimizer
    groups = runner.optim_wrapper.optimizer.param_groups
    decays = {id(p): group['weight_decay'] for group in groups for p in group['params'] if p.requires_grad}
    for name, p in runner.model.named_parameters():
        if p.requires_grad:
            expected = fc_decay if name == 'head.fc.weight' else conv_decay if p.ndim == 4 else 0.0
            assert decays.pop(id(p)) == expected, name
            assert torch.isfinite(p).all(), name
    assert not decays
