"""The total batch that a config is meant for, told by ``plan`` and kept by accumulating gradients."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS, PARAM_SCHEDULERS

from mmfixnorm.engine import UpdateParamSchedulerHook
from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.total_batch import counts_to_keep, total_batch
from mmfixnorm.search.driver import TRIAL_COMMAND, run_search
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.report import write_report
from mmfixnorm.search.terminal.console import places_lines
from mmfixnorm.search.trial.schedule import lengthen_iterations

HERE = Path(__file__).parent
BY_EPOCH = dict(train_cfg=dict(by_epoch=True, max_epochs=4))


def config(batch_size=64, base=None, counts=None, **other):
    wrapper = {} if counts is None else dict(accumulative_counts=counts)
    auto = {} if base is None else dict(auto_scale_lr=dict(base_batch_size=base))
    return dict(
        train_dataloader=dict(batch_size=batch_size), optim_wrapper=dict(wrapper, optimizer={}), **auto, **other
    )


@pytest.mark.parametrize(
    ('name', 'options', 'processes', 'named', 'real', 'factor'),
    [
        ('resnet50-d_fixnorm_16xb64-120e_imagenet.py', {}, 16, 1024, 1024, 1),
        ('resnet50-d_fixnorm_16xb64-120e_imagenet.py', {}, 4, 1024, 256, 4),
        ('resnet50_16xb64_imagenet.py', {}, 5, 1024, 320, None),  # no multiple
        ('resnet50_2xb8_x.py', {}, 1, 16, 64, None),  # more than it is meant for
        ('mine.py', dict(base=256), 2, 256, 128, 2),
        ('mine.py', dict(base=256, counts=2), 2, 256, 256, 1),
        ('mine_8xb32_x.py', dict(base=1024), 4, 256, 256, 1),  # a child of a config for another total
    ],
)
def test_the_total_batch_is_that_of_the_name_or_else_of_auto_scale_lr(name, options, processes, named, real, factor):
    total = total_batch(config(**options), f'configs/{name}', processes)
    assert (total.named, total.real, total.factor) == (named, real, factor)


@pytest.mark.parametrize(
    ('name', 'options'), [('mine.py', {}), ('a_16xb64.py', dict(batch_size=None)), ('matrix_16xbox.py', {})]
)
def test_a_config_that_says_no_total_batch_has_none(name, options):
    assert total_batch(config(**options), name, 1) is None


@pytest.mark.parametrize(
    ('name', 'options', 'processes', 'message'),
    [
        ('mine.py', BY_EPOCH, 1, r'keep_total_batch: the config says no total batch'),
        (
            'a_16xb64_x.py',
            BY_EPOCH,
            5,
            r'5 processes x batch_size 64 make a total batch of 320, and .*16xb64.* says 1024',
        ),
        ('a_1xb64_x.py', BY_EPOCH, 2, r'total batch of 128, and .* says 64, which is no multiple of it'),
        (
            'a_2xb64_x.py',
            dict(BY_EPOCH, custom_hooks=[dict(type='FixNormEMAHook')]),
            1,
            r'accumulative_counts=2 FixNormEMAHook would average the weights of each iteration',
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_numbers(name, options, processes, message):
    with pytest.raises(ConfigError, match=message):
        counts_to_keep(config(**options), name, processes)


def test_keeping_the_total_batch_is_another_search_and_not_keeping_it_none():
    kept, not_kept = (parse_settings(dict(keep_total_batch=flag)).identity() for flag in (True, False))
    assert not_kept == parse_settings({}).identity() != kept


BY_ITERATION = {  # the same training, counted in iterations
    'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=16, val_interval=8),
    'param_scheduler': [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=8, end=16, T_max=8),
    ],
    'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=False, interval=16),
}


def toy(folder, batch_size, changes, **search):
    """A short real training of the toy model with group normalisation, with FixNorm and a schedule by iterations."""
    options = {
        'model': dict(type='ToyGroupNormClassifier', head=dict(type='ToyFixNormHead', alpha=1.0)),
        'train_dataloader.batch_size': batch_size,
        'optim_wrapper': dict(
            type='FixNormOptimWrapper',
            constructor='FixNormOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
        ),
        'custom_imports.imports': ['toy_toolbox', 'mmfixnorm.engine'],
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', by_epoch=True, begin=2, end=4, T_max=2, convert_to_iter_based=True),
        ],
        'auto_scale_lr': dict(base_batch_size=64),
        'search.lrs': [0.4],
        'search.keep_weights': 'all',
        **copy.deepcopy(changes),  # merging takes `_delete_` out of it
        **{f'search.{key}': value for key, value in search.items()},
    }
    return load_problem(HERE / 'toy_config.py', work_dir=folder, cfg_options=options)


def trained(problem, last):
    assert run_search(problem, command=TRIAL_COMMAND).kind == 'done'
    checkpoint = torch.load(problem.trial_dir('grid-00') / 'run' / f'{last}.pth', weights_only=False)
    return torch.cat([tensor.flatten() for tensor in checkpoint['state_dict'].values()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'last', 'last_kept'), [({}, 'epoch_4', 'epoch_4'), (BY_ITERATION, 'iter_16', 'iter_32')]
)
def test_accumulated_gradients_train_what_the_whole_batch_trains(tmp_path, monkeypatch, changes, last, last_kept):
    """In float64 with group normalisation: half the batch and two iterations to an update, to 1e-12."""
    monkeypatch.setenv('PYTHONPATH', f'{HERE}:{HERE.parents[1]}')
    whole = trained(toy(tmp_path / 'whole', 64, changes), last)
    assert whole.dtype == torch.float64
    problem = toy(tmp_path / 'kept', 32, changes, keep_total_batch=True)
    kept = trained(problem, last_kept)
    torch.testing.assert_close(kept, whole, rtol=0, atol=1e-12)
    assert f'_{problem.length()}' == last_kept[-len(str(problem.length())) - 1 :]
    assert (read_record(problem.work_dir).attempts[0].result.curve[-1][0], problem.cost(1.0)) == (problem.length(), 1.0)
    other = trained(toy(tmp_path / 'other', 32, changes), last)  # as a check of the check
    assert (other - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    ('iterations', 'counts', 'updates', 'told'),
    [
        (100, 4, 25, ''),
        (10, 4, 2, 'at epoch 8;'),
        (11, 4, 3, 'at epoch 10.9;'),
        (2, 4, 1, 'at epoch 20;'),
        (1001, 4, 250, ''),
    ],
)
def test_schedules_by_epoch_count_whole_updates_and_say_what_that_moves(monkeypatch, iterations, counts, updates, told):
    said = []
    monkeypatch.setattr(f'{UpdateParamSchedulerHook.__module__}.print_log', lambda text, **_: said.append(text))
    for wrapper, interval in (
        (SimpleNamespace(_accumulative_counts=counts), None),
        (dict(accumulative_counts=counts), None),  # of a FlexibleRunner, not built yet
        (SimpleNamespace(_accumulative_counts=2 * counts), counts),
    ):
        said.clear()
        schedules = [dict(by_epoch=True, convert_to_iter_based=True), dict(by_epoch=False), dict(by_epoch=False, end=3)]
        runner = SimpleNamespace(train_dataloader=range(iterations), max_iters=10 * iterations)
        vars(runner).update(optim_wrapper=wrapper, param_schedulers=schedules)
        UpdateParamSchedulerHook(interval).count_updates(runner)
        assert [s.get('epoch_length') for s in schedules] == [updates, None, None]
        assert [s.get('end') for s in schedules] == [None, 10 * iterations // counts, 3]
        assert told in ''.join(said)
        assert bool(said) == bool(told)


def test_several_optimizers_have_no_one_interval_and_a_wrong_one_is_refused():
    runner = SimpleNamespace(optim_wrapper=OptimWrapperDict())
    with pytest.raises(ConfigError, match=r'default_hooks\.param_scheduler: .*several optimizers.*set interval'):
        UpdateParamSchedulerHook().interval_of(runner)
    assert UpdateParamSchedulerHook(3).interval_of(runner) == 3
    for wrong in (0, 1.5, True):
        with pytest.raises(ConfigError, match=r'param_scheduler\.interval must be an integer >= 1'):
            UpdateParamSchedulerHook(wrong)


@pytest.mark.parametrize('end', [8, None])
@pytest.mark.parametrize('own', [1, 2])
def test_a_schedule_of_a_trial_ends_where_that_of_its_config_does(tmp_path, end, own):
    """In iterations of a config that may accumulate gradients by itself, with an end of its own or none."""
    schedule = dict(type='PolyLR', by_epoch=False, eta_min=0.0, power=1.0, **({} if end is None else dict(end=end)))
    changes = {
        'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=8, val_interval=8),
        'param_scheduler': [schedule],
        'optim_wrapper.accumulative_counts': own,
        'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=False, interval=8),
    }
    problem = toy(tmp_path, 64 // own // 2, changes, keep_total_batch=True)
    cfg = problem.trial_config(Spec('k', 'grid', Point(1.0, None, None), 1.0))
    assert (cfg.optim_wrapper.accumulative_counts, cfg.train_cfg.max_iters) == (2 * own, 16)
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1.0), accumulative_counts=2 * own)
    hook = HOOKS.build(cfg.default_hooks.param_scheduler)
    runner = SimpleNamespace(
        optim_wrapper=wrapper, param_schedulers=cfg.param_scheduler, max_iters=16, train_dataloader=range(16)
    )
    hook.count_updates(runner)
    (schedule,) = (PARAM_SCHEDULERS.build({**s, 'optimizer': wrapper}) for s in runner.param_schedulers)
    runner.param_schedulers, rates = [schedule], []
    for runner.iter in range(16):
        rates.append(wrapper.param_groups[0]['lr'])
        hook.after_train_iter(runner, runner.iter)
    # As in 8 iterations of the config, each twice: mmengine's PolyLR comes to its end in the last.
    assert rates == pytest.approx([1 - (i // 2) / 7 for i in range(16)], abs=1e-12)


def test_a_longer_training_by_iterations_moves_what_counts_them_and_no_schedule():
    schedule = [dict(type='LinearLR', by_epoch=False, begin=0, end=8)]
    cfg = Config(
        dict(
            train_cfg=dict(by_epoch=False, max_iters=100, val_begin=10, val_interval=20, dynamic_intervals=[(60, 5)]),
            param_scheduler=schedule,
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=50)),
            custom_hooks=[dict(type='mmdet.PipelineSwitchHook', switch_iter=90, interval=7)],
        )
    )
    longer = lengthen_iterations(cfg, 3)
    assert longer.train_cfg == dict(
        by_epoch=False, max_iters=300, val_begin=30, val_interval=60, dynamic_intervals=[(180, 15)]
    )
    assert longer.param_scheduler == schedule
    assert longer.default_hooks.checkpoint.interval == 150
    assert (longer.custom_hooks[0].switch_iter, longer.custom_hooks[0].interval) == (270, 7)
    by_epoch = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=4), default_hooks=cfg.default_hooks))
    assert lengthen_iterations(by_epoch, 3).to_dict() == by_epoch.to_dict()


@pytest.mark.parametrize(
    ('executor', 'workers', 'keep', 'said'),
    [
        (
            dict(type='slurm', nodes_per_trial=2, gpus_per_trial=16),
            1,
            False,
            ['a trial takes 16 GPUs on 2 nodes; the search at most 1 at a time (slurm): 16 GPUs on 2 nodes'],
        ),
        (
            dict(type='ray', nodes_per_trial=2, gpus_per_trial=8),
            3,
            True,
            [
                'a trial takes 8 GPUs on 2 nodes; the search at most 3 at a time (ray): 24 GPUs on 6 nodes',
                'total batch: 8 processes x batch_size 64 make a total batch of 512, '
                "and the config's name (16xb64) says "
                '1024; accumulative_counts=2 makes up for it (keep_total_batch)',
            ],
        ),
        (
            dict(type='slurm', gpus_per_trial=0),
            99,
            False,
            [
                'a trial takes 1 process on 1 node; the search at most 5 at a time (slurm): 5 processes on 5 nodes',
                'WARNING: 1 process x batch_size 64 make a total batch of 64, '
                "and the config's name (16xb64) says 1024; "
                'the learning rate belongs to the total batch: use search.keep_total_batch=True, or as many GPUs '
                '(search.executor.gpus_per_trial) as make it',
            ],
        ),
        (
            dict(type='local', gpus_per_trial=16),
            1,
            False,
            ['a trial takes 16 GPUs on this machine; the search at most 1 at a time (local): 16 GPUs on this machine'],
        ),
    ],
)
def test_the_plan_says_what_a_trial_and_the_search_take(make_search, executor, workers, keep, said):
    search = make_search(extra='')
    config = Path(search.config)
    named = config.with_name('net_16xb64_data.py')
    named.write_text(config.read_text() + 'train_dataloader.update(batch_size=64)\n')
    search.config = str(named)
    problem = search.problem(workers, search__executor=executor, search__keep_total_batch=keep)
    assert places_lines(problem, 5) == said


@pytest.mark.parametrize('keep', [True, False])
def test_the_config_of_the_winner_says_for_which_total_batch_it_is(make_search, small, keep):
    search = make_search(small)
    config = Path(search.config)
    named = config.with_name('net_4xb64_data.py')
    named.write_text(config.read_text() + 'train_dataloader.update(batch_size=64)\n')
    search.config = str(named)
    search.run(search__keep_total_batch=keep)
    report, path = write_report(search.problem(search__keep_total_batch=keep), search.record())
    for text in (report.read_text(), path.read_text().replace('\n# ', ' ')):
        for said in (
            'is for the total batch of the trials, 256: 1 x batch_size 64 x accumulative_counts 4',
            'needs the same total, GPUs x batch_size x accumulative_counts',
        ):
            assert (said in text) == keep
    assert Config.fromfile(path).optim_wrapper.optimizer.lr  # it is a config all the same
