"""The rows of Tables 3 and 4: what their configs say."""

import re
from pathlib import Path

import modelindex
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.trial.schedule import scale_schedule

CONFIGS = Path(__file__).parents[2] / 'configs'
PATHS = sorted(path for folder in ('coco', 'cityscapes') for path in (CONFIGS / folder).glob('*.py'))
FIXNORM = [path for path in PATHS if '_wd_' not in path.stem]
NAME = re.compile(
    r'(?P<model>retinanet_r50-fpn|base-oc_r101-d8)_(?P<method>wd|fixnorm|fixnorm-frozen-bn|fixnorm-wn-frozen-bn|angle)'
    r'_(?P<gpus>\d)xb(?P<batch>\d)-(?P<schedule>step|cosine|poly)-(?P<iters>\d+)k'
    r'_(?P<data>coco|cityscapes)(-769x769)?'
)
#: lr, weight decay, alpha, result
TABLES = {
    'retinanet_r50-fpn_wd_8xb2-step-90k_coco': (0.01, 1e-4, None, 36.5),
    'retinanet_r50-fpn_wd_8xb2-cosine-90k_coco': (0.01, 1e-4, None, 36.2),
    'retinanet_r50-fpn_fixnorm_8xb2-step-90k_coco': (0.0145, 0.0, 0.5, 36.9),
    'retinanet_r50-fpn_fixnorm_8xb2-cosine-90k_coco': (0.0145, 0.0, 0.5, 37.1),
    'base-oc_r101-d8_wd_4xb2-poly-40k_cityscapes-769x769': (0.01, 5e-4, None, 78.7),
    'base-oc_r101-d8_wd_4xb2-cosine-40k_cityscapes-769x769': (0.01, 5e-4, None, 78.3),
    'base-oc_r101-d8_fixnorm_4xb2-poly-40k_cityscapes-769x769': (0.0335, 0.0, 1.0, 79.4),
    'base-oc_r101-d8_fixnorm_4xb2-cosine-40k_cityscapes-769x769': (0.043, 0.0, 1.0, 79.7),
}
WRAPPER = {
    'optim_wrapper.type': 'FixNormOptimWrapper',
    'optim_wrapper.constructor': 'FixNormOptimWrapperConstructor',
}
NO_DECAY = {'optim_wrapper.optimizer.weight_decay': 0.0}
RETINA = WRAPPER | {'model.bbox_head.type': 'FixNormRetinaHead'}
HELD = {
    'model.type': 'FixNormModel',
    'model.fixnorm.plain_type': 'RetinaNet',
    r'model.fixnorm.swap.backbone\.layer[234]\..*.type': 'WNConv2d',
    r'model.fixnorm.swap.backbone\.layer[234]\..*.train_scale': False,
}
TRAINED_BN = {'model.backbone.norm_cfg.type': 'SyncBN', 'model.backbone.norm_eval': False}
#: What a method sets and the weight-decay baseline does not, besides `search` and the numbers that are tuned.
DIFFERENCES = {
    ('coco', 'fixnorm'): RETINA | NO_DECAY | TRAINED_BN,
    ('coco', 'fixnorm-frozen-bn'): RETINA | {'optim_wrapper.paramwise_cfg.exclude': [r'^backbone\.']},
    ('coco', 'fixnorm-wn-frozen-bn'): RETINA | NO_DECAY | HELD,
    ('cityscapes', 'fixnorm'): WRAPPER
    | NO_DECAY
    | {'model.decode_head.type': 'FixNormBaseOCHead', 'model.auxiliary_head.type': 'FixNormFCNHead'},
}
ANGLE = {'optim_wrapper.update': 'angle', 'optim_wrapper.per': 'layer'}
DIFFERENCES |= {(data, 'angle'): DIFFERENCES[data, 'fixnorm'] | ANGLE for data in ('coco', 'cityscapes')}
#: Not rows of the tables.
OTHERS = {
    'retinanet_r50-fpn_fixnorm-frozen-bn_8xb2-cosine-90k_coco',
    'retinanet_r50-fpn_fixnorm-wn-frozen-bn_8xb2-cosine-90k_coco',
    'retinanet_r50-fpn_angle_8xb2-cosine-90k_coco',
    'base-oc_r101-d8_angle_4xb2-cosine-40k_cityscapes-769x769',
}
ALPHAS = {
    'coco': ('model.bbox_head.alpha',),
    'cityscapes': ('model.decode_head.alpha', 'model.auxiliary_head.alpha'),
}
METRIC = {'coco': 'coco/bbox_mAP', 'cityscapes': 'mIoU'}


def named(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


def parts(path: Path) -> re.Match:
    match = NAME.fullmatch(path.stem)
    assert match is not None
    return match


def test_there_is_a_config_for_every_row_and_those_of_frozen_bn_and_of_angles():
    assert {path.stem for path in PATHS} == {*TABLES, *OTHERS}


@named(PATHS)
def test_the_name_says_what_is_inside(path):
    cfg, name = Config.fromfile(path), parts(path)
    assert cfg.train_dataloader.batch_size == int(name['batch'])
    assert cfg.auto_scale_lr == dict(base_batch_size=int(name['gpus']) * int(name['batch']), enable=False)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 1000 * int(name['iters'])
    last = {'step': 'MultiStepLR', 'cosine': 'CosineAnnealingLR', 'poly': 'PolyLR'}[name['schedule']]
    assert cfg.param_scheduler[-1].type == last
    assert cfg.data_root == f'data/{name["data"]}/'


@named([path for path in PATHS if path.stem in TABLES])
def test_lr_weight_decay_and_alpha_are_the_table_s(path, flat):
    cfg = Config.fromfile(path)
    lr, weight_decay, alpha, _ = TABLES[path.stem]
    optimizer = dict(type='SGD', lr=lr, momentum=0.9, weight_decay=weight_decay)
    assert cfg.optim_wrapper.optimizer == optimizer
    assert {flat(cfg.to_dict()).get(key) for key in ALPHAS[path.parent.name]} == {alpha}


@named(PATHS)
def test_the_images_are_the_paper_s(path):
    cfg = Config.fromfile(path)
    train = {t.type: t for t in cfg.train_dataloader.dataset.pipeline}
    assert train['RandomFlip'].prob == 0.5
    if path.parent.name == 'coco':
        assert [*train] == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'PackDetInputs']
        assert train['Resize'].scale == (1333, 800)
    else:
        crops = (train['RandomCrop'].crop_size, cfg.model.data_preprocessor.size, cfg.model.test_cfg.crop_size)
        assert set(crops) == {(769, 769)}


@named(FIXNORM)
def test_a_method_differs_from_weight_decay_in_what_it_claims_alone(path, flat):
    name, data = parts(path), path.parent.name
    baseline = flat(Config.fromfile(path.with_name(path.name.replace(f'_{name["method"]}_', '_wd_'))).to_dict())
    ours = flat(Config.fromfile(path).to_dict())
    changed = {k: ours.get(k) for k in ours.keys() | baseline.keys() if ours.get(k) != baseline.get(k)}
    tuned = {'optim_wrapper.optimizer.lr', *ALPHAS[data]}
    rest = {k: v for k, v in changed.items() if not k.startswith('search.') and k not in tuned}
    assert rest == DIFFERENCES[data, name['method']]
    assert tuned <= changed.keys()


@pytest.mark.parametrize('folder', ['coco', 'cityscapes'])
@pytest.mark.parametrize('method', ['wd', 'fixnorm'])
def test_two_rows_of_a_method_differ_in_their_schedule_and_the_tuned_lr_alone(folder, method, flat):
    first, second = (
        flat(Config.fromfile(p).to_dict()) for p in PATHS if p.parent.name == folder and f'_{method}_' in p.stem
    )
    changed = {k for k in first.keys() | second.keys() if first.get(k) != second.get(k)}
    assert changed - {'optim_wrapper.optimizer.lr'} == {'param_scheduler'}


def expected_factor(schedule: str, at: float, warmup: float) -> float:
    """The learning rate at a part of the training, in parts of the peak."""
    if at < warmup:
        return 1 / 3 + 2 / 3 * at / warmup
    if schedule == 'step':
        return 1.0 if at < 6 / 9 else 0.1 if at < 8 / 9 else 0.01
    if schedule == 'poly':
        return (1 - at) ** 0.9
    return 0.5 + 0.5 * torch.cos(torch.tensor((at - warmup) / (1 - warmup) * torch.pi)).item()


@named(PATHS)
def test_the_learning_rate_follows_the_closed_form(path):
    cfg = scale_schedule(Config.fromfile(path), 0.02)
    length, lr = cfg.train_cfg.max_iters, cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedulers = [PARAM_SCHEDULERS.build({**s, 'optimizer': optimizer}) for s in cfg.param_scheduler]
    curve = []
    for _ in range(length):
        curve.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    # In mmengine a warm-up of n iterations reaches the full rate in the n-th, and poly its end in the last.
    last = length - (parts(path)['schedule'] == 'poly')
    warmup = (cfg.param_scheduler[0].end - 1) / last if path.parent.name == 'coco' else 0.0
    expected = [lr * expected_factor(parts(path)['schedule'], i / last, warmup) for i in range(length)]
    assert curve == pytest.approx(expected, rel=5e-3, abs=1e-3 * lr)
    assert length == {'coco': 1800, 'cityscapes': 800}[path.parent.name]


@named(PATHS)
def test_its_search_block_is_valid_and_its_own_lr_and_alpha_lie_inside(path, flat):
    cfg = Config.fromfile(path)
    if '_wd_' in path.stem:
        assert 'search' not in cfg
        return
    settings = parse_settings(cfg.search)
    assert settings.kind == 'FixNormSearch'
    assert (settings.num_rounds, settings.num_splits, settings.schedule_fractions) == (2, 5, (0.2, 1.0))
    assert settings.lr_range == ((0.004, 0.064) if '_angle_' in path.stem else (0.005, 0.1))
    assert settings.lr_range[0] <= cfg.optim_wrapper.optimizer.lr <= settings.lr_range[1]
    assert settings.metric == METRIC[path.parent.name]
    assert settings.alpha_keys == ALPHAS[path.parent.name]
    assert {flat(cfg.to_dict())[key] for key in settings.alpha_keys} <= set(settings.alphas)


def test_the_front_door_is_the_best_row_of_table_4():
    best = CONFIGS / 'coco/retinanet_r50-fpn_fixnorm_8xb2-cosine-90k_coco.py'
    assert Config.fromfile(CONFIGS / 'retinanet_fixnorm.py').to_dict() == Config.fromfile(best).to_dict()


def test_the_model_index_has_the_paper_s_results_and_says_so():
    models = {m.name: m for m in modelindex.load(str(CONFIGS.parent / 'model-index.yml')).models}
    for name, (*_, result) in TABLES.items():
        assert list(models[name].results[0].metrics.values()) == [result]
        assert 'reported by the paper, not yet measured' in models[name].metadata.data['Results Source']
