"""A trial that is told to end writes a checkpoint at once, and continues from there as if it had not been told."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.trial import __main__ as trial
from mmfixnorm.search.trial.folder import read_progress

HERE = Path(__file__).parents[1]


def by_iteration(cfg):
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=32, val_interval=8)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20)]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=8)


@pytest.fixture(autouse=True)
def toy_toolbox(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv('MMFIXNORM_NOTICE', 'TERM USR1')
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make_trial(tmp_path):
    """Write the folder of a trial that is told to end after these iterations; return it."""

    def make(name, told_after=(), edit=lambda cfg: None, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        hooks = [dict(type='NoticeHook', iteration=n, once=str(folder / f'told-{n}')) for n in told_after]
        options = {'custom_hooks': hooks, **options}
        cfg = load_problem(HERE / 'toy_config.py', work_dir=tmp_path, cfg_options=options).trial_config(
            Spec('grid-01', 'grid', Point(0.4, 2.0), 1.0)
        )
        edit(cfg)
        cfg.work_dir = str(folder / 'run')
        (folder / 'config.py').write_text(cfg.pretty_text)
        task = dict(key='grid-01', lr=0.4, alpha=2.0, attempt=1, fingerprint='f', weight_decay=None)
        task.update(metric='accuracy/top1', rule='greater', select='last', alpha_keys=['model.head.alpha'])
        (folder / 'spec.json').write_text(json.dumps(task))
        return folder

    return make


def ended(folder):
    """The validations, and the weights at the end."""
    newest = max((folder / 'run').glob('*.pth'), key=lambda path: path.stat().st_mtime_ns)
    weights = torch.load(newest, weights_only=False)['state_dict']
    return json.loads((folder / 'result.json').read_text())['curve'], torch.cat([t.flatten() for t in weights.values()])


@pytest.mark.parametrize('edit', [lambda cfg: None, by_iteration], ids=['by epoch', 'by iteration'])
def test_a_training_told_to_end_anywhere_loses_no_iteration(make_trial, forget_runs, edit):
    """In the middle of an epoch, at the end of one, before a validation: 32 iterations, 8 in an epoch."""
    straight = make_trial('straight', edit=edit)
    assert trial.main([str(straight)]) == 0
    told = make_trial('told', told_after=(3, 8, 21, 31), edit=edit)
    for n in (3, 8, 21, 31):
        forget_runs()
        assert trial.main([str(told)]) == os.EX_TEMPFAIL
        assert (told / 'attempt-1.saved').exists()
        assert (told / 'run' / f'notice_{n}.pth').exists()
        assert not (told / 'result.json').exists()
    forget_runs()
    assert trial.main([str(told)]) == 0
    (curve, weights), (expected, all_weights) = ended(told), ended(straight)
    assert curve == expected
    assert torch.equal(weights, all_weights)
    assert not list((told / 'run').glob('notice_*'))


def test_what_a_training_took_that_was_told_to_end_is_not_lost(make_trial, forget_runs):
    folder = make_trial('told', told_after=(21,))
    assert trial.main([str(folder)]) == os.EX_TEMPFAIL
    progress = read_progress(folder, attempt=1)
    assert progress.iteration == 21
    forget_runs()
    assert trial.main([str(folder)]) == 0
    assert json.loads((folder / 'result.json').read_text())['seconds'] > progress.seconds > 0


def test_in_the_last_iteration_there_is_nothing_to_save(make_trial):
    folder = make_trial('told', told_after=(32,))
    assert trial.main([str(folder)]) == 0
    assert not (folder / 'attempt-1.saved').exists()


def test_a_training_that_accumulates_gradients_saves_where_it_has_none(make_trial):
    folder = make_trial('told', told_after=(21,), **{'optim_wrapper.accumulative_counts': 4})
    assert trial.main([str(folder)]) == os.EX_TEMPFAIL
    assert [path.name for path in (folder / 'run').glob('notice_*')] == ['notice_24.pth']


def test_without_the_variable_the_signal_is_not_taken(make_trial, monkeypatch):
    monkeypatch.delenv('MMFIXNORM_NOTICE')
    taken = []
    signal.signal(signal.SIGUSR1, lambda *_: taken.append(1))
    assert trial.main([str(make_trial('told', told_after=(3,)))]) == 0
    assert taken
