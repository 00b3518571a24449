"""One training of a search: real ones, a second long."""

import errno
import importlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
import types
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import LinearLR, OptimWrapper

from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import _is_warm_up
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.trial import __main__ as trial
from mmfixnorm.search.trial.folder import TrainingProgress, add_to_curve, read_curve, read_progress, write_progress

HERE = Path(__file__).parents[1]
ALPHA = 'model.head.alpha'


@pytest.fixture(autouse=True)
def toy_toolbox(monkeypatch):
    monkeypatch.syspath_prepend(HERE)  # for this process, and below for the trials' processes
    monkeypatch.setenv('PYTHONPATH', str(HERE))


@pytest.fixture
def make_trial(tmp_path):
    """Write the folder of a trial at lr 0.4 and alpha 2, with options; return it."""

    def make(attempt=1, name='trial', metric='accuracy/top1', alpha_keys=(ALPHA,), weight_decay=None, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        problem = load_problem(
            HERE / 'toy_config.py',
            work_dir=tmp_path,
            cfg_options={k.replace('__', '.'): v for k, v in options.items()},
        )
        cfg = problem.trial_config(Spec('grid-01', 'grid', Point(0.4, 2.0), 1.0))
        cfg.work_dir = str(folder / 'run')
        (folder / 'config.py').write_text(cfg.pretty_text)
        task = dict(key='grid-01', lr=0.4, alpha=2.0, attempt=attempt, fingerprint='f')
        task.update(weight_decay=weight_decay)
        task.update(metric=metric, rule='greater', select='last', alpha_keys=list(alpha_keys))
        (folder / 'spec.json').write_text(json.dumps(task))
        return folder

    return make


def run(folder):
    """Run the trial in this process; return its result."""
    trial.main([str(folder)])
    return json.loads((folder / 'result.json').read_text())


def weights(folder, epoch=4):
    return torch.load(folder / 'run' / f'epoch_{epoch}.pth', weights_only=False)['state_dict']


def test_the_result_proves_what_was_built(make_trial):
    result = run(make_trial())
    assert result['outcome'] == 'done'
    assert (result['built_lrs'], result['built_alphas']) == ([0.4], [2.0])
    assert [step for step, _ in result['curve']] == [1, 2, 3, 4]
    assert result['value'] == result['curve'][-1][1] > 90
    assert (result['length'], result['attempt']) == (4, 1)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(model__head__type='ToyHeadThatForgets'),
            r'asks for alpha 2, but model\.head\.alpha of the built model is 1',
        ),
        (
            dict(optim_wrapper__paramwise_cfg=dict(custom_keys={'': dict(lr_mult=0.5)})),
            r'asks for lr 0\.4, but the built optimizer has \[0\.2\]',
        ),
        (
            dict(
                weight_decay=1e-4,
                optim_wrapper__optimizer__weight_decay=1e-4,
                optim_wrapper__paramwise_cfg=dict(custom_keys={'': dict(decay_mult=0.0)}),
            ),
            r'asks for weight decay 0\.0001, but the trained parameters of the built optimizer have \[0\.0\]',
        ),
        (dict(alpha_keys=['model.body.alpha']), "the built Linear has no attribute 'alpha'"),
        (dict(metric='accuracy/top5'), "does not report 'accuracy/top5'; it reports 'accuracy/top1'"),
        (dict(model__type='NoSuchModel'), 'NoSuchModel is not in the'),
        (dict(model__raise_at=1), 'ValueError: the set of weights to fix is empty'),
        (dict(optim_wrapper__optimizer__momentum=-1), 'Invalid momentum value: -1'),
    ],
)
def test_a_wrong_config_is_broken_and_says_why(make_trial, options, message):
    result = run(make_trial(**options))
    assert (result['outcome'], result['value']) == ('broken', None)
    assert re.search(message, result['message'])


OF_FILES = {  # what building a data set raises, whether its data are there: whether every trial would end like this
    'a full disk': (OSError(errno.ENOSPC, 'No space left on device'), True, False),
    'a stale mount': (OSError(errno.ESTALE, 'Stale file handle'), True, False),
    'another user': (PermissionError(errno.EACCES, 'Permission denied'), True, False),
    'not mounted': (FileNotFoundError(errno.ENOENT, 'No such file or directory'), False, False),
    'not mounted, as some data sets say it': (AssertionError('no images'), False, False),
    'a mistake': (AssertionError('no images'), True, True),
    'no network': (URLError('Name or service not known'), True, True),
}


@pytest.mark.parametrize(('raised', 'has_data', 'is_broken'), OF_FILES.values(), ids=OF_FILES)
def test_what_one_machine_cannot_read_is_for_another_attempt(
    make_trial, tmp_path, monkeypatch, raised, has_data, is_broken
):
    data = tmp_path / 'data'
    data.mkdir()
    folder = make_trial(train_dataloader__dataset__data_root=str(data))

    def build(*args, **kwargs):
        raise raised

    monkeypatch.setattr(importlib.import_module('toy_toolbox').ToyPoints, '__init__', build)
    if not has_data:
        data.rmdir()
    if is_broken:
        assert run(folder)['outcome'] == 'broken'
        return
    with pytest.raises(ConfigError):
        trial.main([str(folder)])
    assert not (folder / 'result.json').exists()


def test_a_work_dir_that_cannot_be_written_is_for_another_attempt(make_trial):
    folder = make_trial()
    (folder / 'run').touch()  # chmod would not keep root out
    with pytest.raises(ConfigError, match='work_dir: cannot write to'):
        trial.main([str(folder)])
    assert not (folder / 'result.json').exists()
    (folder / 'run').unlink()
    assert run(folder)['outcome'] == 'done'


def test_a_loss_that_is_nan_stops_the_training(make_trial):
    folder = make_trial(model__explode_at=9)  # the first batch of epoch 2
    result = run(folder)
    assert (result['outcome'], result['value']) == ('diverged', None)
    assert 'the loss is nan' in result['message']
    assert not (folder / 'run' / 'epoch_3.pth').exists()


def test_an_error_in_the_middle_of_a_training_is_for_another_attempt(make_trial):
    folder = make_trial(model__raise_at=20)
    with pytest.raises(ValueError, match='empty'):
        trial.main([str(folder)])
    assert not (folder / 'result.json').exists()


def broken_off(make_trial, forget_runs):
    """The result of an undisturbed training, and the folder of one like it that an error has ended in epoch 3."""
    straight = run(make_trial(name='straight'))
    forget_runs()
    folder = make_trial(model__raise_at=20)
    with pytest.raises(ValueError, match='empty'):
        trial.main([str(folder)])
    return straight, folder


def test_a_later_attempt_goes_on_and_ends_like_an_undisturbed_one(make_trial, forget_runs):
    straight, _ = broken_off(make_trial, forget_runs)
    forget_runs()
    folder = make_trial(attempt=2)
    result = run(folder)
    assert result['curve'] == straight['curve']
    assert result['attempt'] == 2
    expected = weights(folder.parent / 'straight')
    for name, tensor in weights(folder).items():
        assert torch.equal(tensor, expected[name])


def test_a_validation_that_a_kill_has_prevented_is_made_up_for(make_trial, forget_runs):
    straight, folder = broken_off(make_trial, forget_runs)
    curve = folder / 'curve.jsonl'
    curve.write_text(curve.read_text().splitlines()[0] + '\n')  # killed between checkpoint and validation 2
    forget_runs()
    assert run(make_trial(attempt=2))['curve'] == straight['curve']


def test_a_trial_whose_folder_was_moved_continues_there(make_trial, forget_runs, tmp_path):
    straight, folder = broken_off(make_trial, forget_runs)
    moved = tmp_path / 'moved'
    make_trial().rename(moved)
    forget_runs()
    assert run(moved)['curve'] == straight['curve']
    assert not folder.exists()
    assert (moved / 'run' / 'epoch_4.pth').exists()


def test_a_torn_checkpoint_is_passed_over_for_an_older_one(make_trial, forget_runs):
    folder = make_trial()
    straight = run(folder)
    newest = folder / 'run' / 'epoch_4.pth'
    newest.write_bytes(newest.read_bytes()[:-1000])
    (folder / 'run' / 'last_checkpoint').write_text('/nowhere/epo')
    forget_runs()
    assert trial.newest_loadable(folder / 'run').name == 'epoch_3.pth'
    assert run(make_trial(attempt=2))['curve'] == straight['curve']


@pytest.mark.parametrize('size', [0, 10, 1000])
def test_a_checkpoint_torn_anywhere_is_noticed(make_trial, tmp_path, size):
    run(make_trial(train_cfg__max_epochs=1, param_scheduler=None))
    whole = next((tmp_path / 'trial' / 'run').glob('*.pth'))
    whole.write_bytes(whole.read_bytes()[:size])
    assert trial.newest_loadable(whole.parent) is None


def test_a_training_killed_before_its_result_is_only_validated_again(make_trial, forget_runs):
    folder = make_trial()
    straight = run(folder)
    curve = folder / 'curve.jsonl'
    curve.write_text('\n'.join(curve.read_text().splitlines()[:3]) + '\n[4, 9')  # killed in a write
    (folder / 'result.json').unlink()
    forget_runs()
    result = run(make_trial(attempt=2))
    assert result['curve'] == straight['curve']


CUT_OFF = ['', '[1, 0.5]\n', '[1, 0.5]', '[1, 0.5]\n[2, 0.', '[', '[1, 0.5]\n[2', '[1, 0.5]\n\0\0']


@pytest.mark.parametrize('left', CUT_OFF)
def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path, left):
    curve = tmp_path / 'curve.jsonl'
    curve.write_text(left)
    add_to_curve(curve, 2, 0.75)
    add_to_curve(curve, 3, 0.875)
    assert read_curve(curve) == {**({1: 0.5} if '[1, 0.5]' in left else {}), 2: 0.75, 3: 0.875}


def test_a_validation_that_a_full_disk_has_cut_off_is_made_up_for(make_trial, forget_runs):
    straight, folder = broken_off(make_trial, forget_runs)
    curve = folder / 'curve.jsonl'
    curve.write_text(curve.read_text()[:-4])
    forget_runs()
    run(make_trial(attempt=2))
    assert list(read_curve(curve).items()) == [tuple(point) for point in straight['curve']]


@pytest.mark.parametrize(('attempt', 'counts'), [(1, True), (2, False)])
def test_the_time_of_an_attempt_is_that_of_all_its_runs(make_trial, attempt, counts):
    folder = make_trial(attempt=attempt)
    write_progress(folder, TrainingProgress(9, 32, 0.5, seconds=1000.0), attempt=1)  # by a run that was killed
    result = run(folder)
    assert (result['seconds'] > 1000) == counts
    reported = read_progress(folder, attempt=attempt).seconds
    assert (reported > 1000) == counts
    assert 0 < reported < result['seconds']


def test_the_metric_is_the_last_or_the_best_finite_validation():
    curve = {1: 70.0, 2: 90.0, 3: math.nan, 4: 80.0}
    assert trial.summarise(curve, select='last', rule='greater') == 80
    assert trial.summarise(curve, select='best', rule='greater') == 90
    assert trial.summarise(curve, select='best', rule='less') == 70


def test_the_learning_rate_is_read_from_before_the_schedulers():
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{'params': parameters[:1]}, {'params': parameters[1:]}], lr=0.4)
    optimizer.param_groups[0].update(lr=0.04, initial_lr=0.4)
    assert trial.built_lrs(OptimWrapper(optimizer)) == [0.4]


def test_a_config_written_for_a_trial_reads_back_as_it_was(make_trial, tmp_path):
    cfg = Config.fromfile(make_trial() / 'config.py')
    assert cfg.optim_wrapper.optimizer.lr == 0.4
    assert cfg.model.head.alpha == 2.0
    assert cfg.randomness.seed == 0
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2
    assert 'search' not in cfg


def test_a_checkpoint_that_this_machine_sees_late_is_waited_for_and_not_for_ever(tmp_path):
    """As on a second node whose file system shows it later than that of the first process."""
    late = tmp_path / 'epoch_1.pth'
    timer = threading.Timer(0.5, late.touch)
    timer.start()
    trial.wait_for_file(late, late_s=60)
    assert late.exists()
    timer.join()
    with pytest.raises(FileNotFoundError, match=r'does not see .*epoch_2\.pth after 0\.3 s, .* all nodes must see'):
        trial.wait_for_file(tmp_path / 'epoch_2.pth', late_s=0.3)


TWO = """
import os, sys
import torch.distributed as dist
from gloo import leave_group
from mmfixnorm.search.trial.__main__ import from_first_process
dist.init_process_group('gloo')
seen = from_first_process(lambda: {'rank': dist.get_rank()})
open(os.path.join(sys.argv[1], str(dist.get_rank())), 'w').write(str(seen))
leave_group()
"""


@pytest.mark.slow
def test_what_the_first_process_sees_is_what_all_of_them_take(tmp_path):
    program = tmp_path / 'two.py'
    program.write_text(TWO)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', str(program)]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])}
    subprocess.run([*command, str(tmp_path)], env=env, check=True, timeout=240)
    assert [(tmp_path / rank).read_text() for rank in '01'] == ["{'rank': 0}"] * 2


@pytest.mark.slow
def test_a_real_trial_killed_in_the_middle_gives_the_result_of_an_undisturbed_one(tmp_path):
    """Two processes at a time, one of them killed by signal 9, against two left in peace."""
    values = {}
    for name, marker in (('peace', ''), ('killed', str(tmp_path / 'killed_once'))):
        problem = load_problem(
            HERE / 'toy_config.py',
            work_dir=tmp_path / name,
            cfg_options={'model.killed_once': marker, 'search.keep_weights': 'all'},
            workers=2,
        )
        outcome = run_search(problem)
        assert outcome.kind == 'done'
        attempts = read_record(problem.work_dir).attempts
        closed = [a for a in attempts if a.result.outcome == 'done']
        values[name] = {a.spec.key: a.result.curve for a in closed}
    assert len(attempts) == 3  # two trainings, one of them in two attempts
    assert values['killed'] == values['peace']


LONG = [dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=4)]


@pytest.mark.parametrize(
    ('schedule', 'warned'),
    [
        (LONG, 'LinearLR warms up to epoch 4, and the training has 4'),
        ([dict(LONG[0], end=3)], ''),
        ([dict(LONG[0], start_factor=1.0, end_factor=0.1)], ''),  # a decay
        ([dict(LONG[0], begin=2)], ''),
        ([dict(type='ConstantLR', factor=0.1, by_epoch=False, begin=0, end=500)], 'warms up to iteration 500'),
        ([dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=4)], ''),
    ],
)
def test_a_warm_up_as_long_as_the_training_is_in_the_result(make_trial, schedule, warned):
    result = run(make_trial(param_scheduler=schedule))
    assert result['outcome'] == 'done'
    found = [text for text in result['warnings'] if 'warms up' in text]
    assert (len(found), warned in ''.join(found)) == (bool(warned), True)


@pytest.mark.parametrize('kind', ['LinearLR', 'mmengine.optim.LinearLR', LinearLR])
def test_a_warm_up_is_known_by_any_name_of_its_class(kind):
    assert _is_warm_up(dict(LONG[0], type=kind))
    assert not _is_warm_up(dict(LONG[0], type=kind, begin=1))


def test_only_warnings_of_this_package_are_kept():
    log, logger = trial.WarningLog(), logging.getLogger('a runner')
    for name in ('mmfixnorm.engine.start', 'mmdet.models', 'mmfixnormal'):
        module = types.ModuleType(name)
        exec('def warn(logger, text): logger.warning(text)', vars(module))
        with log.listening(logger):
            module.warn(logger, f'from {name}')
            module.warn(logger, f'from {name}')
        module.warn(logger, f'later, from {name}')
    assert log.texts == ['from mmfixnorm.engine.start']


NOT_A_NUMBER = {  # rule and earlier validations: what a last value of nan is
    ('greater', ()): ('done', 0.0),
    ('greater', (0.1, 0.2)): ('done', 0.0),
    ('greater', (-0.5, -0.4)): ('diverged', None),  # 0 would be better than every other training
    ('less', (0.5,)): ('diverged', None),
}


@pytest.mark.parametrize(('rule', 'earlier', 'end'), [(*key, end) for key, end in NOT_A_NUMBER.items()])
def test_a_metric_that_is_nan_is_never_better_than_one_that_was_measured(rule, earlier, end):
    hook = types.SimpleNamespace(curve=dict(enumerate([*earlier, math.nan])))
    ended = trial.valued(hook, dict(rule=rule, select='last', metric='m'))
    assert (ended['outcome'], ended.get('value')) == end
