"""Optim wrapper, hooks and search block of a converted config."""

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from torch import nn

import mmfixnorm.engine  # noqa: F401  # registers the wrappers
from mmfixnorm.convert.recipe import (
    check_optim_wrapper,
    default_hooks_edit,
    hooks_with_fixnorm,
    optim_wrapper_edit,
    search_block,
)
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
FIXNORM = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')


def config(evaluator=None, **optim_wrapper):
    return Config(dict(optim_wrapper=dict(optimizer=SGD) | optim_wrapper, val_evaluator=evaluator))


@pytest.mark.parametrize(
    'wrapper, exclude, decay, expected',
    [
        (dict(), [], False, dict(FIXNORM, optimizer=dict(weight_decay=0.0))),
        (dict(), ['^a$'], True, dict(FIXNORM, paramwise_cfg=dict(exclude=['^a$']))),
        (
            dict(type='AmpOptimWrapper', loss_scale='dynamic'),
            [],
            False,
            dict(FIXNORM, type='FixNormAmpOptimWrapper', optimizer=dict(weight_decay=0.0)),
        ),
        # AdamW decays by default, SGD's cousin Rprop cannot.
        (dict(optimizer=dict(type='AdamW', lr=1.0)), [], False, dict(FIXNORM, optimizer=dict(weight_decay=0.0))),
        (dict(optimizer=dict(type='Rprop', lr=1.0)), [], False, dict(FIXNORM)),
        (
            dict(paramwise_cfg=dict(norm_decay_mult=0.0)),
            ['^a$'],
            False,
            dict(FIXNORM, optimizer=dict(weight_decay=0.0), paramwise_cfg=dict(exclude=['^a$'])),
        ),
        (
            dict(paramwise_cfg=dict(norm_decay_mult=0, custom_keys=dict(a=dict(lr_mult=0.1, decay_mult=0), b={}))),
            [],
            False,
            dict(
                FIXNORM,
                optimizer=dict(weight_decay=0.0),
                paramwise_cfg=dict(_delete_=True, custom_keys=dict(a=dict(lr_mult=0.1))),
            ),
        ),
        # Layer-wise learning rates: by the constructor of the base, without its decay; its lr_mult has no effect there.
        (
            dict(
                constructor='LearningRateDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.7, flat_decay_mult=0.0, custom_keys=dict(a=dict(lr_mult=0.1))),
            ),
            ['^a$'],
            False,
            dict(
                FIXNORM,
                optimizer=dict(weight_decay=0.0),
                paramwise_cfg=dict(
                    _delete_=True,
                    lr_constructor=dict(type='LearningRateDecayOptimWrapperConstructor', layer_decay_rate=0.7),
                    exclude=['^a$'],
                ),
            ),
        ),
        (
            dict(
                constructor='mmseg.LearningRateDecayOptimizerConstructor',
                paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6),
            ),
            [],
            True,
            dict(
                FIXNORM,
                paramwise_cfg=dict(
                    _delete_=True,
                    lr_constructor=dict(
                        type='mmseg.LearningRateDecayOptimizerConstructor',
                        decay_rate=0.9,
                        decay_type='stage_wise',
                        num_layers=6,
                    ),
                ),
            ),
        ),
    ],
)
def test_the_wrapper_has_no_decay_on_the_set_and_keeps_factors_of_the_learning_rate(wrapper, exclude, decay, expected):
    cfg = config(**wrapper)
    check_optim_wrapper(cfg)
    assert optim_wrapper_edit(cfg, exclude, decay=decay)[0] == expected


class Net(nn.Module):
    """Two layers in the set, with norm layers, and three tensors beside it: of an embedding, of a table, of a head."""

    def __init__(self) -> None:
        super().__init__()
        layers = {f'layer{i}': nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for i in (1, 4)}
        self.backbone = nn.ModuleDict(layers)
        self.backbone.bias_table = nn.Parameter(torch.zeros(3, 3))
        self.query_embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 2)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        return int(not name.startswith('backbone')), 3


OUTSIDE = ('backbone.bias_table', 'query_embed.weight', 'head.weight')
DECAYED = dict(type='SGD', lr=0.1, weight_decay=0.05)
BY_LAYER = dict(constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor')


def settings(optim_wrapper) -> dict[str, tuple[float, float]]:
    """Learning rate of each parameter, and weight decay of those outside the set that it is kept for."""
    net = Net()
    groups = build_optim_wrapper(net, optim_wrapper).optimizer.param_groups
    names = {id(param): name for name, param in net.named_parameters()}
    found = {names[id(param)]: group for group in groups for param in group['params']}
    return {name: (group['lr'], name in OUTSIDE and group['weight_decay']) for name, group in found.items()}


@pytest.mark.parametrize(
    'base, custom_keys',
    [
        (dict(), {'backbone': dict(lr_mult=0.1), 'backbone.layer4': dict(lr_mult=1.0)}),
        (dict(), {'backbone': dict(lr_mult=0.1), 'backbone.layer4': dict()}),
        (dict(), {'backbone': dict(lr_mult=0.1), 'bias_table': dict(decay_mult=0.0)}),
        (dict(), {'layer4.0': dict(lr_mult=0.1), 'backbone': dict()}),  # as long: the first in the alphabet
        (dict(), {'bone': dict(lr_mult=0.1), 'layer4': dict(lr_mult=1.0), 'layer4.0': dict(lr_mult=0.5)}),
        (dict(), {'query_embed': dict(lr_mult=1.0, decay_mult=0.0)}),
        (dict(), {'bias_table': dict(decay_mult=0.0), 'backbone.bias_table': dict(lr_mult=0.1)}),
        (dict(), {'': dict(decay_mult=0.0), 'head': dict(decay_mult=1.0)}),
        (BY_LAYER, {'query_embed': dict(lr_mult=0.1, decay_mult=0.0)}),
        (BY_LAYER, {'bias_table': dict(decay_mult=0.0), 'backbone.bias_table': dict(lr_mult=0.1)}),
    ],
)
def test_custom_keys_mean_what_they_mean_in_the_base(base, custom_keys) -> None:
    rates = {}
    if 'constructor' in base:
        pytest.importorskip('mmpretrain')
        import mmpretrain.engine  # noqa: F401  # registers the constructor

        rates = dict(layer_decay_rate=0.5)
    cfg = config(**{'type': 'OptimWrapper', 'optimizer': DECAYED, **base})
    cfg.optim_wrapper.paramwise_cfg = dict(**rates, custom_keys=custom_keys)
    check_optim_wrapper(cfg)
    edit, comments = optim_wrapper_edit(cfg, [r'^head\.weight$'], decay=True)
    child = Config(cfg.to_dict())
    child.merge_from_dict(dict(optim_wrapper=edit))
    found, expected = settings(child.optim_wrapper), settings(cfg.optim_wrapper)
    assert found == {name: pytest.approx(own) for name, own in expected.items()}
    assert not any('Not carried over' in comment for comment in comments)


BY_DEPTH = dict(constructor='LearningRateDecayOptimizerConstructor')


@pytest.mark.parametrize(
    'wrapper, paramwise, decay, dropped',
    [
        (dict(), dict(bias_lr_mult=2.0, bias_decay_mult=0.0), False, 'bias_lr_mult=2.0'),
        (dict(), dict(dwconv_decay_mult=0.0), True, 'dwconv_decay_mult=0.0'),
        (dict(), dict(dwconv_decay_mult=0.0), False, None),
        (dict(), dict(custom_keys=dict(a=dict(decay_mult=0.0), b=dict(lr_mult=0.1))), False, None),
        (dict(), dict(custom_keys=dict(a=dict(decay_mult=0.5))), False, "custom_keys['a'] {'decay_mult': 0.5}"),
        (dict(), dict(custom_keys=dict(a=dict(decay_mult=0.5))), True, "custom_keys['a'] {'decay_mult': 0.5}"),
        (
            dict(),
            dict(custom_keys=dict(bn=dict(decay_mult=0, lr_mult=0.1, lars_exclude=True), a=dict(weight_decay=0.1))),
            True,
            "custom_keys['bn'] {'lars_exclude': True}, custom_keys['a'] {'weight_decay': 0.1}",
        ),
        (BY_LAYER, dict(custom_keys=dict(a=dict(lr=0.1, momentum=0.5))), True, "custom_keys['a'] {'momentum': 0.5}"),
        # Those of mmdet and mmseg read no custom_keys.
        (BY_DEPTH, dict(decay_rate=0.9, custom_keys=dict(a=dict(decay_mult=0.5, x=1))), True, None),
    ],
)
def test_what_is_not_taken_over_is_said(wrapper, paramwise, decay, dropped) -> None:
    _, comments = optim_wrapper_edit(config(**wrapper, paramwise_cfg=paramwise), [], decay=decay)
    said = [comment for comment in comments if 'Not carried over' in comment]
    assert said == ([f'Not carried over from paramwise_cfg: {dropped}.'] if dropped else [])


@pytest.mark.parametrize(
    'wrapper, message',
    [
        (dict(optimizer=None), 'optim_wrapper: must be a dict with optimizer'),
        (dict(type='ApexOptimWrapper'), "'ApexOptimWrapper' has no form with norm fixing"),
        (
            dict(constructor='project.GroupsByName'),
            "constructor: 'project.GroupsByName' is unknown, .*lr_constructor=dict.type='project.GroupsByName'",
        ),
        (
            dict(paramwise_cfg=dict(custom_keys={'head.': dict(lr=0.01)})),
            r"optim_wrapper.paramwise_cfg.custom_keys\['head.'\].lr: got 0.01, .*write it as lr_mult",
        ),
        (dict(optimizer=dict(type='SGD')), 'optimizer.lr: must be a number > 0 to start from, got None'),
    ],
)
def test_what_cannot_be_kept_is_refused(wrapper, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_optim_wrapper(config(**wrapper))


def classified() -> dict:
    scores = torch.tensor([0.7, 0.1, 0.2, 0.0, 0.0])
    return dict(pred_score=scores, gt_label=torch.tensor([0]), gt_score=(scores > 0.5).float())


def segmented() -> dict:
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    return dict(pred_sem_seg=dict(data=mask), gt_sem_seg=dict(data=mask), img_path='')


def detected() -> dict:
    box, labels, masks = [2.0, 2.0, 10.0, 10.0], torch.tensor([0]), torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, 2:10, 2:10] = True
    found = dict(bboxes=torch.tensor([box]), labels=labels)
    outline = [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]]
    return dict(
        pred_instances=dict(found, scores=torch.tensor([1.0]), masks=masks),
        gt_instances=found,
        ignored_instances=dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
        instances=[dict(bbox=box, bbox_label=0, ignore_flag=0, mask=outline)],
        ori_shape=(16, 16),
    )


EVALUATORS = {  # evaluator -> its toolbox, an image, options with the name of the metric; None if it reports no number
    'Accuracy': (
        'mmpretrain',
        classified,
        [
            (dict(), 'accuracy/top1'),
            (dict(topk=(1, 5)), 'accuracy/top1'),
            (dict(topk=5), 'accuracy/top5'),
            (dict(topk=(2, 3)), 'accuracy/top2'),
            (dict(thrs=(0.0, 0.5)), 'accuracy/top1_thr-0.00'),
            (dict(thrs=(None, 0.5), topk=[3]), 'accuracy/top3_no-thr'),
            (dict(thrs=[0.5], prefix='mine'), 'mine/top1'),
        ],
    ),
    'SingleLabelMetric': (
        'mmpretrain',
        classified,
        [
            (dict(), 'single-label/f1-score'),
            (dict(average='micro'), 'single-label/f1-score_micro'),
            (dict(average=None), None),
            (dict(items=['precision']), 'single-label/precision'),
            (dict(items=['support']), None),
            (dict(items=['recall', 'f1-score'], thrs=(0.2, None)), 'single-label/f1-score_thr-0.20'),
            (dict(average='micro', thrs=(None, 0.2)), 'single-label/f1-score_no-thr_micro'),
        ],
    ),
    'MultiLabelMetric': (
        'mmpretrain',
        classified,
        [
            (dict(), 'multi-label/f1-score'),
            (dict(thr=0.3, average='micro'), 'multi-label/f1-score_thr-0.30_micro'),
            (dict(topk=2, items=('recall',)), 'multi-label/recall_top2'),
            (dict(average=None), None),
        ],
    ),
    'AveragePrecision': ('mmpretrain', classified, [(dict(), 'multi-label/mAP'), (dict(average=None), None)]),
    'CocoMetric': (
        'mmdet',
        detected,
        [
            (dict(), 'coco/bbox_mAP'),
            (dict(metric=['segm', 'bbox']), 'coco/segm_mAP'),
            (dict(metric='bbox', prefix='mine'), 'mine/bbox_mAP'),
            (dict(metric='bbox', metric_items=['mAP_50']), 'coco/bbox_mAP_50'),
            (dict(metric='proposal'), 'coco/AR@100'),
            (dict(metric='proposal', metric_items=['AR@300']), 'coco/AR@300'),
            (dict(metric='proposal_fast'), 'coco/AR@100'),
            (dict(metric='proposal_fast', proposal_nums=(10, 20)), 'coco/AR@10'),
        ],
    ),
    'VOCMetric': (
        'mmdet',
        detected,
        [
            (dict(), 'pascal_voc/mAP'),
            (dict(metric='recall'), 'pascal_voc/recall@100@0.5'),
            (dict(metric=['recall'], iou_thrs=[0.4, 0.6], proposal_nums=(7, 9)), 'pascal_voc/recall@7@0.4'),
        ],
    ),
    'IoUMetric': (
        'mmseg',
        segmented,
        [(dict(), 'mIoU'), (dict(iou_metrics=['mDice', 'mIoU']), 'mDice'), (dict(iou_metrics=['mFscore']), 'mFscore')],
    ),
}


@pytest.mark.parametrize(
    'kind, options, metric',
    [(kind, *row) for kind, (_, _, rows) in EVALUATORS.items() for row in rows],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_metric_is_a_number_that_the_evaluator_reports(kind, options, metric) -> None:
    toolbox, image, _ = EVALUATORS[kind]
    metrics = pytest.importorskip(f'{toolbox}.evaluation.metrics')
    evaluator = Evaluator([getattr(metrics, kind)(**options)])
    evaluator.dataset_meta = dict(classes=('a', 'b', 'c', 'd', 'e'))
    for i in (1, 2):
        evaluator.process(data_batch={}, data_samples=[dict(image(), img_id=i)])
    reported = evaluator.evaluate(2)
    block = search_block(config(dict(type=kind, **options)), ['model.head.alpha'])
    if metric is None:
        assert block is None
        return
    assert float(reported[metric]) >= 0
    assert block == dict(
        type='FixNormSearch', lr_range=(0.05, 0.8), metric=metric, rule='greater', alpha_key='model.head.alpha'
    )


@pytest.mark.parametrize(
    'evaluators, metric',
    [
        ([dict(type='Unknown'), dict(type='IoUMetric')], 'mIoU'),
        ([dict(type='AveragePrecision', average=None), dict(type='mmpretrain.Accuracy', topk=5)], 'accuracy/top5'),
    ],
)
def test_an_evaluator_without_a_known_number_is_passed_over(evaluators, metric) -> None:
    assert search_block(config(evaluators), ['model.head.alpha'])['metric'] == metric


def test_the_range_is_the_users_and_an_unknown_metric_gives_no_search() -> None:
    coco = dict(type='CocoMetric', metric='bbox')
    assert search_block(config(coco), ['model.a.alpha', 'model.b.alpha'], (1, 2))['lr_range'] == (1, 2)
    with pytest.raises(ConfigError, match='lr_range'):
        search_block(config(coco), ['model.a.alpha'], (2, 1))
    assert search_block(config(dict(type='Unknown')), ['model.a.alpha']) is None


def test_a_search_of_the_plain_config_is_replaced_but_for_its_metric_and_how_it_runs() -> None:
    kept = dict(metric='coco/bbox_mAP_50', rule='greater', seed=3, workers=4, executor='ray', confirm_seeds=1)
    tuned = dict(type='BayesianSearch', num_trials=25, weight_decay_range=(1e-5, 1e-2), budget=9, own_lr=0.1)
    plain = config(dict(type='CocoMetric', metric='bbox'))
    plain.search = dict(lr_range=(0.05, 3.2), **tuned, **kept)
    block = search_block(plain, ['model.bbox_head.alpha'])
    plain.merge_from_dict(dict(search=block))  # as a child does
    ours = dict(type='FixNormSearch', lr_range=(0.05, 0.8), alpha_key='model.bbox_head.alpha')
    assert plain.search.to_dict() == {**ours, **kept}
    assert parse_settings(plain.search).confirm_seeds == 1


@pytest.mark.parametrize('search', ['grid', ['FixNormSearch'], 3])
def test_a_search_that_is_no_block_is_refused(search) -> None:
    plain = config(dict(type='CocoMetric', metric='bbox'))
    plain.search = search
    with pytest.raises(ConfigError, match=r'^search: must be a dict, got'):
        search_block(plain, ['model.bbox_head.alpha'])


def test_averaged_weights_are_put_to_the_norm_and_no_hook_is_lost_or_doubled() -> None:
    ema, watch = dict(type='EMAHook', momentum=1e-4), dict(type='WeightNormLoggerHook', interval=100, per_layer=False)
    check = dict(type='ClassCheckHook')
    cfg = Config(dict(custom_hooks=[ema, dict(type='Other')]))
    assert hooks_with_fixnorm(cfg) == [dict(ema, type='FixNormEMAHook'), dict(type='Other'), watch, check]
    assert cfg.custom_hooks[0].type == 'EMAHook'
    for present in (watch, dict(watch, type='WeightNormHook')):
        assert hooks_with_fixnorm(Config(dict(custom_hooks=[check, present]))) == [check, present]


@pytest.mark.parametrize(
    'hooks, edit',
    [
        (None, {}),
        (dict(ema=dict(type='EMAHook', momentum=1e-4), timer=dict(type='IterTimerHook')), dict(ema='FixNormEMAHook')),
        (dict(average=dict(type='mmengine.EMAHook'), logger=None), dict(average='FixNormEMAHook')),
    ],
)
def test_averaged_weights_among_the_default_hooks_are_put_to_the_norm_too(hooks, edit) -> None:
    assert default_hooks_edit(Config(dict(default_hooks=hooks))) == {
        name: dict(type=kind) for name, kind in edit.items()
    }
