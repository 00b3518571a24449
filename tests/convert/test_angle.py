"""A config converted by angle: no number of it stays in units of the learning rate of its base."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmfixnorm.convert.angle import (
    ANGLE,
    comments_on_decay,
    keys_of_lr,
    schedule_by_angle,
    schedule_for_lr,
    schedule_without_decay,
    wrapper_by_angle,
)
from mmfixnorm.convert.recipe import optim_wrapper_edit
from mmfixnorm.core.layers import WNLinear
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.settings import ANGLE_RANGE

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
ADAMW = dict(type='AdamW', lr=4e-3, weight_decay=0.05)


def config(*schedulers, optimizer=SGD) -> Config:
    return Config(dict(optim_wrapper=dict(optimizer=optimizer), param_scheduler=list(schedulers)))


def child_of(cfg: Config) -> Config:
    edit, _ = wrapper_by_angle(cfg, optim_wrapper_edit(cfg, [], decay=False)[0])
    child = Config(cfg.to_dict())
    child.merge_from_dict(dict(optim_wrapper=edit))
    return child


def test_a_layer_does_not_turn_by_a_multiple_of_the_angle() -> None:
    keys = {'head': dict(lr_mult=10.0), 'head.norm': dict(lr_mult=1.0), 'backbone': dict(lr_mult=0.1)}
    cfg = Config(
        dict(
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-4), paramwise_cfg=dict(custom_keys=keys)
            )
        )
    )
    by_step, _ = optim_wrapper_edit(cfg, [], decay=False)
    by_angle, comments = wrapper_by_angle(cfg, by_step)
    assert by_step['paramwise_cfg']['custom_keys']['head'] == dict(lr_mult=10.0)
    kept = by_angle['paramwise_cfg']['custom_keys']
    assert kept == {'head': dict(lr_mult=1.0), 'head.norm': dict(lr_mult=1.0), 'backbone': dict(lr_mult=0.1)}
    assert "lr_mult=10 of custom_keys['head'], with which its layers would turn by 0.2 in one step" in comments[-1]


def test_the_range_holds_the_angle_with_room_for_twice_and_half_of_it() -> None:
    low, high = ANGLE_RANGE
    assert low <= ANGLE / 2 < ANGLE * 2 <= high
    assert (low * high) ** 0.5 == pytest.approx(0.016)


@pytest.mark.parametrize(
    'optimizer, other_lr, said',
    [
        (SGD, 20 * ANGLE, '20 times the angle'),
        (ADAMW, 16e-3, "4 times the base config's 0.004, as long as the angle is 0.02"),
        (dict(type='Adam', lr=1e-3), 4e-3, "4 times the base config's 0.001"),
        (dict(type='RMSprop', lr=4e-3), 4e-3, "0.004, the base config's, as long as the angle is 0.02"),
    ],
    ids=['sgd', 'adamw', 'adam', 'rmsprop'],
)
def test_others_train_with_20_times_the_angle_or_by_the_lr_of_an_optimizer_other_than_sgd(optimizer, other_lr, said):
    cfg = config(optimizer=optimizer)
    child = child_of(cfg)
    assert said in wrapper_by_angle(cfg, optim_wrapper_edit(cfg, [], decay=False)[0])[1][1]
    wrapper = build_optim_wrapper(nn.Sequential(WNLinear(3, 4)), child.optim_wrapper)
    lrs = {'fix_norm' in group: group['lr'] for group in wrapper.optimizer.param_groups}
    assert lrs == pytest.approx({True: ANGLE, False: other_lr})
    assert (child.optim_wrapper['update'], child.optim_wrapper['per']) == ('angle', 'layer')
    assert all(group['weight_decay'] == 0 for group in wrapper.optimizer.param_groups)


WARM_UP = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=5)


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=5),
        dict(type='CosineAnnealingLR', eta_min_ratio=0.05, by_epoch=False, begin=5),
        dict(type='MultiStepLR', milestones=[3], gamma=0.1),
        dict(type='PolyLR', power=0.9, eta_min=0.0),
        dict(type='CosineAnnealingMomentum', eta_min=0.85),
        dict(type='LinearParamScheduler', param_name='weight_decay', start_factor=0.1),
    ],
)
def test_a_schedule_of_factors_or_of_another_value_is_inherited(scheduler) -> None:
    assert schedule_by_angle(config(WARM_UP, scheduler)) is None


def decays_of(scheduler) -> list[float]:
    """The weight decay of two groups, one without, after some steps."""
    groups = [dict(params=[torch.zeros(1, requires_grad=True)], weight_decay=decay) for decay in (0.0, 0.05)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    built = PARAM_SCHEDULERS.build({**scheduler, 'optimizer': optimizer})
    for _ in range(4):
        optimizer.step()
        built.step()
    return [group['weight_decay'] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    'scheduler, comment',
    [
        (dict(type='CosineAnnealingParamScheduler', eta_min=1e-4, T_max=5), 'CosineAnnealing.* with eta_min=0.0001,'),
        (dict(type='CosineAnnealingParamScheduler', eta_min=0.0, T_max=5), None),
        (dict(type='CosineAnnealingParamScheduler', eta_min_ratio=0.1, T_max=5), None),
        (dict(type='CosineRestartParamScheduler', eta_min=1e-4, periods=[5]), 'with eta_min=0.0001,'),
        (dict(type='PolyParamScheduler', eta_min=1e-4, end=5), 'PolyParamScheduler of weight_decay with'),
        (dict(type='MultiStepParamScheduler', milestones=[2], gamma=0.1), None),
        (dict(type='ExponentialParamScheduler', gamma=0.5), None),
        (dict(type='LinearParamScheduler', start_factor=0.1, end=5), None),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else None,
)
def test_a_schedule_that_would_bring_weight_decay_is_left_out_with_a_comment(scheduler, comment) -> None:
    scheduler = dict(scheduler, param_name='weight_decay')
    assert (decays_of(scheduler)[0] != 0) == bool(comment)
    cfg = config(WARM_UP, scheduler)
    expected = [WARM_UP] if comment else None
    for found in (schedule_without_decay(cfg), schedule_by_angle(cfg), schedule_for_lr(cfg, 0.3)):
        assert found == expected
    comments = comments_on_decay(cfg)
    assert len(comments) == bool(comment)
    assert all(re.search(comment, own) for own in comments)
    cfg.param_scheduler = scheduler
    assert schedule_without_decay(cfg) == ([] if comment else None)


@pytest.mark.parametrize(
    'scheduler, changed',
    [
        (dict(type='CosineAnnealingLR', eta_min=0.005, T_max=9), dict(eta_min_ratio=0.05)),
        (dict(type='CosineRestartLR', eta_min=0.005, periods=[9]), dict(eta_min_ratio=0.05)),
        (dict(type='CosineAnnealingParamScheduler', param_name='lr', eta_min=0.005), dict(eta_min_ratio=0.05)),
        (dict(type='ReduceOnPlateauLR', eps=1e-5), dict(eps=2e-6)),
    ],
)
def test_numbers_in_units_of_the_lr_keep_their_proportion(scheduler, changed) -> None:
    cfg = config(WARM_UP, scheduler)
    kept = {key: value for key, value in scheduler.items() if key not in ('eta_min', 'min_value', 'eps')}
    assert schedule_by_angle(cfg) == [WARM_UP, {**kept, **changed}]
    assert cfg.param_scheduler[1] == scheduler  # the base is as it was


@pytest.mark.parametrize(
    'schedulers, keys',
    [
        (None, []),
        ([WARM_UP, dict(type='CosineAnnealingLR', eta_min=0.005)], ['param_scheduler.1.eta_min']),
        ([WARM_UP, dict(type='CosineAnnealingLR', eta_min=0.0)], []),
        ([dict(type='CosineAnnealingLR', eta_min_ratio=0.05)], []),
        (dict(type='PolyLR', eta_min=1e-4), ['param_scheduler.eta_min']),
        (dict(type='OneCycleLR', eta_max=0.1), ['param_scheduler.eta_max']),
        ([dict(type='CosineAnnealingParamScheduler', param_name='lr', eta_min=1e-3)], ['param_scheduler.0.eta_min']),
        ([dict(type='CosineAnnealingMomentum', eta_min=0.85), dict(type='OwnLR', eta_min=0.1)], []),
    ],
)
def test_the_keys_of_numbers_in_units_of_the_lr_are_found(schedulers, keys) -> None:
    assert keys_of_lr(schedulers, 'mmengine') == keys


def curve(cfg: Config) -> list[float]:
    """The learning rate of 20 steps, in parts of the first."""
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = PARAM_SCHEDULERS.build({**cfg.param_scheduler[0], 'optimizer': optimizer})
    found = []
    for _ in range(20):
        found.append(optimizer.param_groups[0]['lr'] / lr)
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='CosineAnnealingLR', eta_min=0.03, T_max=20, by_epoch=False),
        dict(type='CosineRestartLR', eta_min=0.03, periods=[12, 8], restart_weights=[1, 0.5], by_epoch=False),
    ],
    ids=lambda scheduler: scheduler['type'],
)
def test_the_angle_follows_the_curve_of_the_lr(scheduler) -> None:
    cfg = config(scheduler)
    child = child_of(cfg)
    child.param_scheduler = schedule_by_angle(cfg)
    assert curve(child) == pytest.approx(curve(cfg), rel=1e-5)
    assert curve(child)[10] < 0.9


@pytest.mark.parametrize(
    'scheduler, message',
    [
        (
            dict(type='OneCycleLR', eta_max=0.1, total_steps=9),
            r'param_scheduler\[1\].eta_max: OneCycleLR gives it to all',
        ),
        (dict(type='PolyLR', eta_min=1e-3), r'param_scheduler\[1\].eta_min: PolyLR gives it to all.*eta_min_ratio'),
        (dict(type='ReduceOnPlateauLR', min_value=1e-3), r'param_scheduler\[1\].min_value: ReduceOnPlateauLR gives'),
        (dict(type='MyLR', low=0.1), r"param_scheduler\[1\].type: 'MyLR' is unknown"),
        (dict(type='ReduceOnPlateauLR', min_value=[0.1]), r'param_scheduler\[1\].min_value: must be a number'),
    ],
)
def test_what_has_no_counterpart_is_refused_with_its_key(scheduler, message) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule_by_angle(config(WARM_UP, scheduler))


@pytest.mark.parametrize('kind', [dict(type='PolyLR'), dict(type='PolyParamScheduler', param_name='lr')])
def test_the_poly_schedule_of_mmseg_keeps_its_proportion_for_all_parameters(kind) -> None:
    pytest.importorskip('mmseg')
    import mmseg.engine  # noqa: F401  # registers PolyLRRatio

    cfg = config(dict(**kind, power=0.9, eta_min=0.01, begin=0, end=20, by_epoch=False))
    cfg.default_scope = 'mmseg'
    (own,) = cfg.param_scheduler
    (by_angle,) = schedule_by_angle(cfg)
    assert by_angle == dict(type='PolyLRRatio', power=0.9, eta_min_ratio=0.1, begin=0, end=20, by_epoch=False)
    groups = [dict(params=[torch.zeros(1, requires_grad=True)], lr=lr) for lr in (ANGLE, 20 * ANGLE)]
    optimizer = torch.optim.SGD(groups, lr=ANGLE)
    scheduler = PARAM_SCHEDULERS.build({**by_angle, 'type': 'mmseg.PolyLRRatio', 'optimizer': optimizer})
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = PARAM_SCHEDULERS.build({**own, 'optimizer': plain})
    for _ in range(19):
        for step in (plain, expected, optimizer, scheduler):
            step.step()
        part = plain.param_groups[0]['lr'] / 0.1
        assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([ANGLE * part, 20 * ANGLE * part])
    assert part < 0.2


def test_a_single_scheduler_is_named_without_an_index() -> None:
    cfg = config()
    cfg.param_scheduler = dict(type='CosineAnnealingLR', eta_min=0.01)
    assert schedule_by_angle(cfg) == [dict(type='CosineAnnealingLR', eta_min_ratio=0.1)]
    cfg.param_scheduler = dict(type='OneCycleLR', eta_max=0.1)
    with pytest.raises(ConfigError, match=r'^param_scheduler\.eta_max'):
        schedule_by_angle(cfg)
