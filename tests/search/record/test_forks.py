"""Trainings at other alphas continue from where g has not met their bound, and nothing else changes."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.claim import read_claim
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.exact_resume import why_not_exact
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.report import write_report
from mmfixnorm.search.trial.folder import read_angles
from mmfixnorm.search.trial.forks import (
    ForkPoint,
    checkpoint_to_start_from,
    give_start,
    keep_point,
    kept_points,
    start_of,
    why_from_the_beginning,
)

HERE = Path(__file__).parents[1]
FORK = multiprocessing.get_context('fork')
EXACT = "default_hooks = dict(epoch_seed=dict(type='EpochSeedHook'))\n"
ALPHAS = 'alphas=[4.0, 0.5, 1.0, 2.0, 8.0, 16.0]'
ALGORITHM_4 = f'lr_range=(0.2, 3.2), {ALPHAS}'
SEEDS = f"type='GridSearch', lrs=[0.5, 1.0], {ALPHAS}, confirm_seeds=2"
# The scale of fake trainings rises evenly to 3 in 10 epochs: it is below 0.5 after 1, below 1 after 3, below 2 after 6.


@pytest.mark.parametrize('workers', [1, 2, 5])
def test_the_table_is_the_same_and_only_the_rest_costs(make_search, workers):
    plain, forked = (make_search(ALGORITHM_4, name, EXACT) for name in ('plain', 'forked'))
    plain.run('forking', workers, search__fork=False)
    forked.run('forking', workers)
    assert forked.table() == plain.table()
    states = [search_state(search.problem(), search.record()) for search in (plain, forked)]
    assert [(s.cost, s.saved_cost) for s in states] == [(9.0, 2.0), (8.0, 3.0)]
    rows = {row.key: row for row in states[1].rows}
    assert {key: row.forked_from for key, row in rows.items() if row.forked_from} == dict.fromkeys(
        ('alpha-1', 'alpha-2', 'alpha-3'), rows['alpha-4'].same_as
    )
    assert [rows[f'alpha-{i}'].spent for i in range(1, 6)] == pytest.approx([0.9, 0.7, 0.4, 0.0, 0.0])
    assert not [*forked.work_dir.glob('trials/*/fork*')]  # all deleted at the end


@pytest.mark.parametrize('workers', [1, 2, 5])
@pytest.mark.parametrize(
    'method',
    [
        f"type='GridSearch', lrs=[0.5, 1.0], {ALPHAS}",
        SEEDS,
        'lr_range=(0.2, 3.2), alphas=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0]',  # the first alpha is the smallest
        f"type='UnimodalFixNormSearch', {ALPHAS}",
        "type='GridSearch', lrs=[0.5, 1.0]",  # no alpha
    ],
)
def test_no_method_has_another_table(make_search, method, workers):
    plain, forked = (make_search(method, name, EXACT) for name in ('plain', 'forked'))
    plain.run('forking', workers, search__fork=False)
    forked.run('forking', workers)
    assert forked.table() == plain.table()
    costs = [search_state(search.problem(), search.record()).cost for search in (plain, forked)]
    assert costs[1] <= costs[0]


@pytest.mark.parametrize('number', [4, 11, 12, 13, 14, 16, 17])
def test_a_driver_killed_at_any_time_leaves_the_same_table(make_search, number):
    plain, killed = (make_search(ALGORITHM_4, name, EXACT) for name in ('plain', 'killed'))
    plain.run('forking')
    heard = []

    def die(event):
        if event.kind in ('recorded', 'submitted', 'forking'):
            heard.append(event)
        if len(heard) == number + 5:  # the short round has nothing to continue
            os.kill(os.getpid(), signal.SIGKILL)

    first = FORK.Process(target=killed.run, args=('forking',), kwargs={'listener': die})
    first.start()
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    killed.run('forking')
    assert killed.table() == plain.table()
    states = [search_state(search.problem(), search.record()) for search in (plain, killed)]
    assert states[1].cost == states[0].cost
    assert killed.trainings() == plain.trainings()


def test_a_trial_keeps_checkpoints_only_for_those_that_may_follow(make_search):
    search, kept = make_search(ALGORITHM_4, extra=EXACT), {}

    def look(event):
        if event.kind == 'submitted':
            key = event.data['key']
            task = json.loads((search.work_dir / 'trials' / key / 'spec.json').read_text())
            kept[key] = task['fork_alphas']
        if event.kind == 'submitted' and event.data['stage'] == 'alpha':
            with_files.append({path.parent.name for path in search.work_dir.glob('trials/*/forks')})

    with_files = []
    search.run('forking', listener=look)
    others = [0.5, 1.0, 2.0, 8.0, 16.0]
    assert all(kept[f'r0-k{k}'] == [] for k in range(5))  # no other training is as short
    assert all(kept[f'r1-k{k}'] == others for k in range(5))
    best = next(row.same_as for row in search_state(search.problem(), search.record()).rows if row.same_as)
    assert with_files[0] == {best}  # those of the other learning rates are deleted when the alphas begin
    assert kept['alpha-1'] == []


def test_it_is_told_as_it_happens_and_in_the_report(make_search):
    search, heard = make_search(ALGORITHM_4, extra=EXACT), []
    search.run('forking', listener=heard.append)
    told = [e for e in heard if e.kind == 'forking']
    assert [e.text.split(' r1')[0] for e in told] == [f'alpha-{i} continues' for i in (3, 2, 1)]
    assert told[0].text.endswith('from iteration 48')
    recorded = next(e for e in heard if e.kind == 'recorded' and e.data['key'] == 'alpha-3')
    assert recorded.text.endswith(f', continued {recorded.data["forked_from"]} from iteration 48')
    assert recorded.data['cost'] == pytest.approx(0.4)
    page = write_report(search.problem(), search.record()).report.read_text()
    assert 'Cost so far 8 T_max of 11 planned; 3 saved' in page


@pytest.mark.parametrize(
    ('options', 'extra', 'why'),
    [
        ({}, '', 'without EpochSeedHook'),
        ({'search__executor': dict(type='local', gpus_per_trial=2)}, EXACT, 'gpus_per_trial is 2'),
        ({'search__fork': False}, EXACT, None),
        ({'search__reuse_trainings': False}, EXACT, None),
        ({'search__seed': None}, EXACT, None),
    ],
)
def test_where_it_is_off_it_says_so_once_and_trains_each(make_search, options, extra, why):
    search, heard = make_search(f"type='GridSearch', lrs=[0.5], {ALPHAS}", extra=extra), []
    search.run('forking', 1, heard.append, **options)
    told = [e.text for e in heard if e.kind == 'forking']
    assert len(told) == (why is not None)
    assert not told or (why in told[0] and 'search.fork' in told[0])
    assert not any(a.result.forked_from for a in search.record().attempts)


def test_the_setting_is_checked(make_search):
    with pytest.raises(ConfigError, match=r"search\.fork: must be True or False, got 'yes'"):
        make_search().problem(search__fork='yes')


GOOD = dict(
    train_cfg=dict(by_epoch=True, max_epochs=3),
    default_hooks=dict(epoch_seed=dict(type='mmfixnorm.EpochSeedHook'), checkpoint=dict(type='CheckpointHook')),
    custom_hooks=[dict(type='FixNormEMAHook')],
    train_dataloader=dict(num_workers=2, persistent_workers=False, sampler=dict(type='DefaultSampler')),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    param_scheduler=[dict(type='CosineAnnealingLR')],
)


@pytest.mark.parametrize(
    ('options', 'why'),
    [
        ({}, ''),
        ({'runner_type': 'FlexibleRunner'}, 'runner_type'),
        ({'train_cfg': dict(max_iters=100, _delete_=True)}, 'train_cfg'),
        ({'train_cfg.type': 'project.MyEpochLoop'}, 'train_cfg'),
        ({'default_hooks.epoch_seed': None}, 'EpochSeedHook'),
        ({'custom_hooks.0.type': 'EarlyStoppingHook'}, 'custom_hooks.0: EarlyStoppingHook'),
        ({'custom_hooks.0.type': 'project.EMAHook'}, 'custom_hooks.0: project.EMAHook'),
        ({'default_hooks.checkpoint': None}, 'checkpoint is None'),
        ({'default_hooks.checkpoint.save_best': 'auto'}, "save_best is 'auto'"),
        ({'default_hooks.checkpoint.by_epoch': False}, 'by_epoch is False'),
        ({'default_hooks.checkpoint.max_keep_ckpts': 1}, ''),
        ({'train_dataloader.persistent_workers': True}, 'persistent_workers'),
        ({'train_dataloader.persistent_workers': True, 'train_dataloader.num_workers': 0}, ''),
        ({'train_dataloader.sampler.type': 'InfiniteSampler'}, 'InfiniteSampler'),
        ({'param_scheduler.0.type': 'ReduceOnPlateauLR'}, 'param_scheduler'),
        ({'optim_wrapper.accumulative_counts': 2}, 'accumulative_counts'),
    ],
)
def test_of_which_configs_a_training_that_continues_repeats(options, why):
    cfg = Config(GOOD)
    cfg.merge_from_dict(options)
    found = why_not_exact(cfg)
    assert why in found
    assert bool(found) == bool(why)


@pytest.mark.parametrize(
    ('scales', 'bounds', 'kept'),
    [
        ([0.1, 0.4, 0.9, 1.5], [0.5], [2]),
        ([0.1, 0.4, 0.9, 1.5], [0.5, 1.0, 8.0], [2, 3, 4]),
        ([0.5, 0.6], [0.5], []),  # just met
        ([0.1, 0.2], [0.5, 1.0], [2]),
        ([0.1], [], []),
    ],
)
def test_for_each_bound_the_newest_checkpoint_before_it_is_kept(tmp_path, scales, bounds, kept):
    run = tmp_path / 'run'
    run.mkdir()
    for i, scale in enumerate(scales, 1):
        (run / f'epoch_{i}.pth').write_text(f'weights {i}')
        keep_point(tmp_path, run / f'epoch_{i}.pth', ForkPoint('a', 'f', i, 9, i, scale, 0.5), bounds)
        (run / f'epoch_{i}.pth').unlink()  # as CheckpointHook does in time
    assert [point.iteration for point in kept_points(tmp_path)] == kept
    for point in kept_points(tmp_path):
        assert give_start(tmp_path / 'child', tmp_path, point)
        assert start_of(tmp_path / 'child') == point
        assert (tmp_path / 'child/fork/checkpoint.pth').read_text() == f'weights {point.iteration}'
        shutil.rmtree(tmp_path / 'forks' / str(point.iteration))
        assert not give_start(tmp_path / 'other', tmp_path, point)


def test_where_links_are_not_possible_checkpoints_are_copied(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', refuse)
    test_for_each_bound_the_newest_checkpoint_before_it_is_kept(tmp_path, [0.1, 0.4], [0.5], [2])


@pytest.mark.parametrize('fingerprint', ['f', 'other'])
def test_a_start_of_another_search_is_refused(tmp_path, fingerprint):
    run, child = tmp_path / 'run', tmp_path / 'child'
    for folder in (run, child):
        folder.mkdir()
    (run / 'epoch_1.pth').write_text('weights')
    keep_point(tmp_path, run / 'epoch_1.pth', ForkPoint('a', 'f', 1, 9, 1, 0.1, 0.5), [0.5])
    assert give_start(child, tmp_path, *kept_points(tmp_path))
    own = fingerprint == 'f'
    found = checkpoint_to_start_from(child, run, lambda f: f / 'checkpoint.pth', fingerprint=fingerprint)
    assert found == (child / 'fork/checkpoint.pth' if own else None)
    assert (start_of(child) is None, 'another search' in why_from_the_beginning(child)) == (not own, not own)


# Real trainings: 8 epochs of 8 iterations, at alpha 6 and at one that g meets in epoch 4.


def real_problem(work_dir, **search):
    options = {
        'model.head.type': 'ToyFixNormHead',
        'default_hooks.epoch_seed': dict(type='EpochSeedHook'),
        'custom_hooks': [dict(type='WeightNormLoggerHook', interval=4), dict(type='EMAHook', momentum=0.1)],
        'train_cfg.max_epochs': 8,
        'param_scheduler.1.T_max': 7,
        'param_scheduler.1.end': 8,
        'search': dict(
            _delete_=True,
            type='GridSearch',
            lrs=[0.2],
            alphas=[6.0, MET],
            keep_weights='all',
            backoff_s=0,
            **search,
        ),
    }
    return load_problem(HERE / 'toy_config.py', work_dir=work_dir, cfg_options=options)


MET = 0.85
CHILD = 'grid-01'


def of_child(problem):
    """Everything that a training leaves, but its times."""
    result = next(a.result for a in read_record(problem.work_dir).attempts[::-1] if a.spec.key == CHILD)
    folder = problem.trial_dir(CHILD)
    last = torch.load(folder / 'run/epoch_8.pth', weights_only=False)
    tensors = [*last['state_dict'].values(), *last['ema_state_dict'].values()]
    momentum = [state['momentum_buffer'] for state in last['optimizer']['state'].values()]
    bits = torch.cat([t.flatten().double() for t in [*tensors, *momentum]]).tolist()
    return (result.value, result.curve, result.largest_scale, result.length), bits, read_angles(folder)


@pytest.fixture(scope='module')
def toy_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', f'{HERE}:{HERE.parents[1]}')  # for the processes of the trials
        yield


@pytest.fixture(scope='module')
def from_scratch(tmp_path_factory, toy_path):
    problem = real_problem(tmp_path_factory.mktemp('plain'), fork=False)
    assert run_search(problem).kind == 'done'
    return of_child(problem)


@pytest.fixture(scope='module')
def begun(tmp_path_factory, toy_path):
    """A search whose driver was killed when it had given the second training its start."""
    problem = real_problem(tmp_path_factory.mktemp('begun'))

    def die(event):
        if event.kind == 'forking':
            os.kill(os.getpid(), signal.SIGKILL)

    first = FORK.Process(target=run_search, args=(problem,), kwargs={'listener': die})
    first.start()
    first.join(300)
    assert first.exitcode == -signal.SIGKILL
    return problem.work_dir


def continue_search(begun, tmp_path, listener=lambda event: None, **search):
    """Continue a copy of that search; return problem, attempts at the second training, and what was told."""
    work_dir, heard = tmp_path / 'search', []
    if not work_dir.exists():
        shutil.copytree(begun, work_dir)
    problem = real_problem(work_dir, **search)
    run_search(problem, listener=lambda event: (heard.append(event), listener(event)))
    attempts = [a for a in read_record(work_dir).attempts if a.spec.key == CHILD]
    return problem, attempts, [event.text for event in heard if event.kind == 'forking']


@pytest.mark.slow
def test_a_real_training_that_is_killed_after_it_forked_ends_with_the_same_bits(begun, from_scratch, tmp_path):
    trial_dir = tmp_path / 'search/trials' / CHILD
    shutil.copytree(begun, tmp_path / 'search')
    start = start_of(trial_dir)
    assert start.step >= 3
    killed = []

    def kill(event):
        if event.kind == 'submitted' and not killed:
            killed.append(event)
            give_up = time.monotonic() + 120
            while not (trial_dir / f'run/epoch_{start.step + 1}.pth').exists():
                assert time.monotonic() < give_up
                time.sleep(0.001)
            os.killpg(read_claim(trial_dir / 'attempt-1.claim').pid, signal.SIGKILL)

    problem, attempts, _ = continue_search(begun, tmp_path, kill)
    assert [a.result.outcome for a in attempts] == ['failed', 'done']
    assert of_child(problem) == from_scratch
    last = attempts[-1]
    assert (last.result.forked_from, last.result.forked_at) == ('grid-00', start.iteration)
    assert last.spent == 1 - start.step / 8
    assert last.result.message == f'continues grid-00 from iteration {start.iteration}'
    assert not [*problem.work_dir.glob('trials/*/fork*')]


def tear(work_dir):
    checkpoint = work_dir / 'trials' / CHILD / 'fork/checkpoint.pth'
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])


def lose(work_dir):
    shutil.rmtree(work_dir / 'trials' / CHILD / 'fork')
    shutil.rmtree(work_dir / 'trials/grid-00')


def change_loss(work_dir):
    path = work_dir / 'trials' / CHILD / 'fork/point.json'
    point = json.loads(path.read_text())
    path.write_text(json.dumps({**point, 'next_loss': point['next_loss'] + 1e-7}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('damage', 'outcomes', 'told', 'message'),
    [
        (tear, ['done'], '', 'cannot be loaded: trained from the start'),
        (lose, ['done'], 'is trained from the start: the checkpoints of grid-00 are gone', ''),
        (change_loss, ['cancelled', 'done'], '', 'something is not restored from checkpoints: trained from the start'),
    ],
)
def test_without_a_good_checkpoint_a_real_training_begins_anew(
    begun, from_scratch, tmp_path, damage, outcomes, told, message
):
    shutil.copytree(begun, tmp_path / 'search')
    damage(tmp_path / 'search')
    problem, attempts, heard = continue_search(begun, tmp_path)
    assert [a.result.outcome for a in attempts] == outcomes
    assert attempts[-1].result.message.endswith(message)
    assert told in ' '.join(heard)
    assert of_child(problem) == from_scratch
    assert (attempts[-1].result.forked_from, attempts[-1].spent) == ('', 1.0)


@pytest.mark.slow
def test_a_start_is_taken_away_where_nothing_is_to_fork_any_more(begun, from_scratch, tmp_path):
    problem, attempts, _ = continue_search(begun, tmp_path, fork=False)
    assert of_child(problem) == from_scratch
    assert attempts[-1].spent == 1.0
