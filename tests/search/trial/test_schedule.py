"""A shorter round shortens the whole schedule, in proportion."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmfixnorm.config import training_length
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.trial.schedule import scale_schedule, shortened_length


def config(param_scheduler=None, **train_cfg):
    train_cfg = train_cfg or dict(by_epoch=True, max_epochs=100)
    return Config(dict(train_cfg=train_cfg, param_scheduler=param_scheduler))


IN1K = [  # 120 epochs of which 4 warm up: the paper's schedule
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=5),
    dict(type='CosineAnnealingLR', T_max=95, by_epoch=True, begin=5, end=100),
]
SCHEDULES = [  # scheduler at 100, what is left at 0.2
    (dict(type='CosineAnnealingLR', T_max=100), dict(T_max=20)),
    (dict(type='CosineAnnealingLR', begin=10, end=100), dict(begin=2, end=20)),
    (dict(type='MultiStepLR', milestones=[30, 60, 90]), dict(milestones=[6, 12, 18])),
    (dict(type='StepLR', step_size=30), dict(step_size=6)),
    (dict(type='PolyLR', power=0.9, begin=0, end=100), dict(begin=0, end=20)),
    (dict(type='CosineRestartLR', periods=[50, 50]), dict(periods=[10, 10])),
    (dict(type='OneCycleLR', total_steps=100, eta_max=1.0), dict(total_steps=20)),
    (dict(type='ReduceOnPlateauLR', patience=10, cooldown=5), dict(patience=2, cooldown=1)),
    (dict(type='LinearLR', by_epoch=False, begin=0, end=500), dict(begin=0, end=100)),
    (dict(type='LinearLR', by_epoch=False, begin=0, end=2), dict(begin=0, end=1)),
    (dict(type='ConstantLR', factor=1.0), {}),
]


@pytest.mark.parametrize(('scheduler', 'changed'), SCHEDULES)
def test_a_scheduler_shrinks_in_proportion(scheduler, changed):
    scaled = scale_schedule(config(scheduler), 0.2)
    assert scaled.param_scheduler.to_dict() == {**scheduler, **changed}
    assert scaled.train_cfg.max_epochs == 20


def test_the_cosine_begins_where_the_warm_up_ends():
    warm_up, cosine = scale_schedule(config(IN1K), 0.33).param_scheduler
    assert warm_up.end == cosine.begin == 2
    assert cosine.end == 33
    assert cosine.T_max == 31


def test_a_warm_up_counted_in_iterations_keeps_parts_of_an_epoch():
    fine = [dict(s, convert_to_iter_based=True) for s in IN1K]
    warm_up, cosine = scale_schedule(config(fine), 0.1).param_scheduler
    assert (warm_up.end, cosine.begin, cosine.T_max, cosine.end) == (0.5, 0.5, 9.5, 10)


def test_a_boundary_that_one_scheduler_needs_whole_is_whole_for_all():
    mixed = [dict(IN1K[0], convert_to_iter_based=True), IN1K[1]]
    warm_up, cosine = scale_schedule(config(mixed), 0.1).param_scheduler
    assert warm_up.end == cosine.begin == 1


def test_iterations_shrink_like_epochs():
    cfg = config(
        [dict(type='PolyLR', by_epoch=False, begin=0, end=40000)],
        type='IterBasedTrainLoop',
        max_iters=40000,
        val_begin=4000,
        val_interval=4000,
        dynamic_intervals=[(30000, 1000)],
    )
    scaled = scale_schedule(cfg, 0.2)
    assert scaled.param_scheduler[0].end == 8000
    assert scaled.train_cfg.to_dict() == dict(
        type='IterBasedTrainLoop',
        max_iters=8000,
        val_begin=800,
        val_interval=800,
        dynamic_intervals=[(6000, 200)],
    )


def test_the_schedulers_of_several_optimizers_shrink_as_well():
    two = dict(generator=[dict(type='StepLR', step_size=50)], critic=dict(type='PolyLR', end=100))
    scaled = scale_schedule(config(two), 0.2).param_scheduler
    assert (scaled.generator[0].step_size, scaled.critic.end) == (10, 20)


def test_an_exponential_ends_at_the_same_factor():
    scaled = scale_schedule(config(dict(type='ExponentialLR', gamma=0.95)), 0.2)
    assert math.isclose(scaled.param_scheduler.gamma**20, 0.95**100)


def test_hooks_shrink_with_the_training():
    cfg = config()
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=10, save_begin=50))
    cfg.custom_hooks = [
        dict(type='EMAHook', momentum=1e-4, begin_epoch=25),
        dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=90, loss=None)]),
    ]
    scaled = scale_schedule(cfg, 0.2)
    assert scaled.default_hooks.checkpoint.to_dict() == dict(type='CheckpointHook', interval=2, save_begin=10)
    assert scaled.custom_hooks[0].to_dict() == dict(type='EMAHook', momentum=1e-4, begin_epoch=5)
    assert scaled.custom_hooks[1].schedule[0].action_epoch == 18


def test_everything_shrinks_by_the_real_length():
    cfg = config(dict(type='MultiStepLR', milestones=[19]), by_epoch=True, max_epochs=38)
    scaled = scale_schedule(cfg, 0.2)
    assert (scaled.train_cfg.max_epochs, scaled.param_scheduler.milestones) == (8, [4])


def test_the_whole_length_changes_nothing():
    cfg = config(IN1K)
    assert scale_schedule(cfg, 1.0).to_dict() == cfg.to_dict()


def test_the_given_config_stays_as_it_is():
    cfg = config(IN1K)
    before = cfg.pretty_text
    scale_schedule(cfg, 0.2)
    assert cfg.pretty_text == before


@pytest.mark.parametrize(('length', 'fraction'), [(1, 0.2), (2, 0.2), (1, 0.9), (3, 0.99)])
def test_a_training_that_cannot_be_shorter_is_refused(length, fraction):
    cfg = config(None, by_epoch=True, max_epochs=length)
    with pytest.raises(ConfigError, match=rf'{fraction} of train_cfg\.max_epochs = {length}'):
        scale_schedule(cfg, fraction)


def test_a_schedule_of_which_nothing_is_left_is_refused():
    with pytest.raises(ConfigError, match='nothing is left of the param_scheduler'):
        scale_schedule(config(IN1K), 0.01)


def test_a_loop_without_a_length_is_refused():
    with pytest.raises(ConfigError, match='max_epochs or max_iters'):
        training_length(Config(dict(train_cfg=dict(type='Endless'))))


def test_the_length_is_rounded_to_whole_epochs():
    assert shortened_length(config(None, by_epoch=True, max_epochs=38), 0.2) == 8


def lr_path(cfg, iters_per_epoch=10):
    """The learning rate of every iteration, by mmengine's own schedulers."""
    optimizer = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0))
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler = scheduler.copy()
        kind = PARAM_SCHEDULERS.get(scheduler.pop('type'))
        scheduler.pop('convert_to_iter_based')
        schedulers.append(kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=iters_per_epoch, **scheduler))
    path = []
    for _ in range(cfg.train_cfg.max_epochs * iters_per_epoch):
        path.append(optimizer.get_lr()['lr'][0])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return path


def test_the_shorter_learning_rate_curve_is_the_long_one_in_less_time():
    cfg = config([dict(s, convert_to_iter_based=True) for s in IN1K])
    long, short = lr_path(cfg), lr_path(scale_schedule(cfg, 0.5))
    assert len(short) * 2 == len(long)
    assert max(abs(a - b) for a, b in zip(long[::2], short, strict=True)) < 0.025


ROOT = Path(__file__).resolve().parents[3]
PAPER = {  # config, schedulers and validation at 0.2 of T_max
    'coco/retinanet_r50-fpn_fixnorm_8xb2-step-90k_coco.py': (
        18000,
        2000,
        [dict(end=100), dict(end=18000, milestones=[12000, 16000])],
    ),
    'coco/retinanet_r50-fpn_fixnorm_8xb2-cosine-90k_coco.py': (
        18000,
        2000,
        [dict(end=100), dict(begin=100, end=18000, T_max=17900)],
    ),
    'cityscapes/base-oc_r101-d8_fixnorm_4xb2-poly-40k_cityscapes-769x769.py': (8000, 800, [dict(end=8000)]),
    'cityscapes/base-oc_r101-d8_fixnorm_4xb2-cosine-40k_cityscapes-769x769.py': (
        8000,
        800,
        [dict(end=8000, T_max=8000)],
    ),
}


@pytest.mark.parametrize(('name', 'expected'), PAPER.items(), ids=PAPER)
def test_the_papers_schedules_by_iterations_shrink_to_a_fifth(name, expected):
    length, interval, schedulers = expected
    cfg = Config.fromfile(ROOT / 'configs' / name, import_custom_modules=False)
    scaled = scale_schedule(cfg, 0.2)
    assert (scaled.train_cfg.max_iters, scaled.train_cfg.val_interval) == (length, interval)
    assert scaled.default_hooks.checkpoint.interval == cfg.default_hooks.checkpoint.interval / 5
    for scheduler, changed in zip(scaled.param_scheduler, schedulers):
        assert {key: scheduler[key] for key in changed} == changed
