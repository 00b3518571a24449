"""Searches on a detector and on a segmentor: training by iterations, their metrics and alpha keys."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmfixnorm.cli import main
from mmfixnorm.launch import load_config
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.study import read_record
from mmfixnorm.search.trial import __main__ as trial

TASKS = {  # metric, keys of alpha
    'detection': ('coco/bbox_mAP', ['model.bbox_head.alpha']),
    'segmentation': ('mIoU', ['model.decode_head.alpha', 'model.auxiliary_head.alpha']),
}


@pytest.fixture
def search_config(tiny_task, tmp_path):
    """Write a config with a search of two trainings of 2 of 4 iterations; return its path."""

    def write(task):
        base, (metric, keys) = tiny_task(task), TASKS[task]
        # Without a threshold an untrained detector finds something, so that it has a metric.
        extra = 'model = dict(test_cfg=dict(score_thr=0.0))' if task == 'detection' else ''
        (tmp_path / 'config.py').write_text(
            f'_base_ = [{base!r}]\n{extra}\n'
            f"search = dict(type='GridSearch', lrs=[0.005, 0.02], alphas=[2.0], schedule_fraction=0.5,\n"
            f'              metric={metric!r}, alpha_key={keys!r})\n'
        )
        return 'config.py'

    return write


@pytest.fixture
def search(forget_runs, capsys):
    def run(*argv):
        forget_runs()
        return (main(['search', *argv, '--work-dir', 'w']), *capsys.readouterr())

    return run


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_a_search_by_iterations_ends_with_a_winner(search_config, search, tmp_path, task):
    config, (metric, keys) = search_config(task), TASKS[task]
    status, out, err = search('run', config, '--workers', '2', '--log-format', 'json')
    assert status == 0, err
    events = [json.loads(line) for line in out.splitlines() if line.startswith('{')]
    assert [e['progress'] for e in events if e['event'] == 'recorded'] == ['1/2', '2/2']

    attempts = {a.spec.key: a.result for a in read_record(tmp_path / 'w').attempts}
    assert sorted(attempts) == ['grid-00', 'grid-01']
    for key, lr in (('grid-00', 0.005), ('grid-01', 0.02)):
        result, run = attempts[key], tmp_path / 'w/trials' / key / 'run'
        assert (result.built_lrs, result.built_alphas) == ([lr], [2.0] * len(keys))
        assert result.length == 2
        (scalars,) = run.glob('*/vis_data/scalars.json')
        logged = [json.loads(line) for line in scalars.read_text().splitlines()]
        assert result.curve == [[2, pytest.approx([r[metric] for r in logged if metric in r][-1])]]
        scheduler = Config.fromfile(run.parent / 'config.py').param_scheduler[0]
        assert scheduler['end'] == 2
        assert scheduler.get('milestones', [2]) == [2]  # of 3 of 4

    winner = max(attempts.values(), key=lambda r: r.value)
    kept = {p.parent.parent.name for p in (tmp_path / 'w/trials').glob('*/run/iter_2.pth')}
    assert winner.key in kept
    best = load_config(tmp_path / 'w/best_config.py')
    assert best.optim_wrapper.optimizer.lr == winner.built_lrs[0]
    assert all(node.alpha == 2.0 for node in (best.model[key.split('.')[1]] for key in keys))
    assert (tmp_path / 'w/report.html').stat().st_size > 10_000
    assert 'iters' in search('status', config)[1]

    # The same names and sizes, other content: other data.
    changed = tmp_path / ('data/val.json' if task == 'detection' else 'data/ann/val/0.png')
    changed.write_bytes(changed.read_bytes() + b'\n')
    status, _, err = search('run', config)
    assert status == 2
    assert 'val_dataloader.dataset' in err


class EndsAt(Hook):
    """Fails the training before an iteration, as a crash would."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise RuntimeError('killed')


@pytest.fixture
def make_trial(tiny_task, tmp_path):
    """Write the folder of a trial of 4 iterations that saves every second one."""

    def make(task, name, attempt=1, **options):
        (metric, keys), folder = TASKS[task], tmp_path / name
        settings = dict(type='GridSearch', lrs=[0.02], alphas=[2.0], metric=metric, alpha_key=keys)
        if not (tmp_path / 'data').exists():
            make.config = tiny_task(task)
        problem = load_problem(make.config, work_dir=tmp_path, cfg_options={'search': settings, **options})
        cfg = problem.trial_config(Spec('grid-00', 'grid', Point(0.02, 2.0), 1.0))
        cfg.work_dir = str(folder / 'run')
        folder.mkdir(exist_ok=True)
        cfg.dump(folder / 'config.py')
        task = dict(key='grid-00', lr=0.02, alpha=2.0, attempt=attempt, fingerprint='f', metric=metric)
        task.update(rule='greater', select='last', alpha_keys=keys)
        (folder / 'spec.json').write_text(json.dumps(task))
        return folder

    return make


def run(folder):
    trial.main([str(folder)])
    return json.loads((folder / 'result.json').read_text())


@pytest.mark.parametrize('task', TASKS)
def test_a_trial_that_ended_between_checkpoints_goes_on_like_an_undisturbed_one(
    make_trial, forget_runs, monkeypatch, task
):
    # 4 pictures in batches of 2: iteration 3 is in the second round over them.
    options = {'model.test_cfg.score_thr': 0.0} if task == 'detection' else {}
    straight = run(make_trial(task, 'straight', **options))
    assert [step for step, _ in straight['curve']] == [4]
    forget_runs()
    folder = make_trial(task, 'killed', **options)
    with monkeypatch.context() as patch:
        build = trial.build_training
        patch.setattr(trial, 'build_training', lambda runner: (runner.register_hook(EndsAt(3)), build(runner))[1])
        with pytest.raises(RuntimeError, match='killed'):
            trial.main([str(folder)])
    forget_runs()
    assert trial.newest_loadable(folder / 'run').name == 'iter_2.pth'
    result = run(make_trial(task, 'killed', attempt=2, **options))
    assert result['curve'] == straight['curve']
    assert (result['built_alphas'], result['attempt']) == (straight['built_alphas'], 2)
    ours, theirs = (
        torch.load(folder.parent / name / 'run/iter_4.pth', weights_only=False)['state_dict']
        for name in ('killed', 'straight')
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_detector_that_finds_nothing_scores_the_worst_value_and_has_not_diverged(make_trial):
    result = run(make_trial('detection', 'nothing'))  # with the threshold: scores start at 0.01
    assert (result['outcome'], result['value']) == ('done', 0.0)
    assert result['curve'] == [[4, None]]  # as it was reported


def test_a_metric_of_another_task_is_a_broken_config(make_trial, monkeypatch):
    monkeypatch.setitem(TASKS, 'segmentation', ('coco/bbox_mAP', TASKS['segmentation'][1]))
    result = run(make_trial('segmentation', 'wrong'))
    assert result['outcome'] == 'broken'
    assert "does not report 'coco/bbox_mAP'; it reports 'aAcc', " in result['message']


def test_a_loss_that_is_nan_ends_the_training_before_it_is_validated(make_trial, monkeypatch):
    folder = make_trial('segmentation', 'nan')
    build = trial.build_training

    def with_nan_bias(runner):
        build(runner)
        torch.nn.init.constant_(runner.model.decode_head.conv_seg.bias, float('nan'))
        runner.model._is_init = True

    monkeypatch.setattr(trial, 'build_training', with_nan_bias)
    result = run(folder)
    assert (result['outcome'], result['curve']) == ('diverged', [])
    assert result['message'] == 'the loss is nan at iteration 4'
