"""A trial is a run in TensorBoard, MLflow and W&B, with its numbers, its stage and its search."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

from mmfixnorm.search.driver import TRIAL_COMMAND
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.trial.folder import write_task

HERE = Path(__file__).parents[1]
TRIAL = dict(search='my_search', trial='grid-01', stage='grid', lr=0.4, alpha=2.0)


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f'{package} is not installed')


def problem_with(tmp_path, backend):
    options = {'visualizer': dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), backend])}
    return load_problem(HERE / 'toy_config.py', work_dir=tmp_path / 'my_search', cfg_options=options)


def configured(tmp_path, backend):
    cfg = problem_with(tmp_path, backend).trial_config(Spec('grid-01', 'grid', Point(0.4, 2.0), 1.0))
    return cfg.visualizer.vis_backends[1]


def test_mlflow_is_told_the_trial_and_keeps_what_the_config_says(tmp_path):
    told = configured(tmp_path, dict(type='MLflowVisBackend', tags=dict(team='vision', stage='mine')))
    texts = {name: str(value) for name, value in TRIAL.items()}
    assert told.tags == {**texts, 'team': 'vision', 'stage': 'mine'}
    assert told.params == TRIAL
    assert (told.exp_name, told.run_name) == ('my_search', 'grid-01')
    assert told.tracking_uri == f'file://{tmp_path}/my_search/mlruns'
    own = configured(tmp_path, dict(type='MLflowVisBackend', tracking_uri='http://127.0.0.1:5000', exp_name='all'))
    assert (own.tracking_uri, own.exp_name) == ('http://127.0.0.1:5000', 'all')


def test_wandb_is_told_the_trial_and_keeps_what_the_config_says(tmp_path):
    own = dict(project='fixnorm', mode='offline', tags=['mine'], config=dict(team='vision'))
    told = configured(tmp_path, dict(type='WandbVisBackend', init_kwargs=own)).init_kwargs
    assert (told.project, told.mode, told.group, told.name) == ('fixnorm', 'offline', 'my_search', 'grid-01')
    assert told.tags == ['mine', 'my_search', 'grid']
    assert told.config == {**TRIAL, 'team': 'vision'}


def train(tmp_path, backend):
    problem = problem_with(tmp_path, backend)
    spec = Spec('grid-01', 'grid', Point(0.4, 2.0), 1.0)
    folder = problem.trial_dir('grid-01')
    write_task(folder, problem.trial_config(spec), problem.trial_task(spec, attempt=1, fingerprint='f'))
    env = {**os.environ, 'PYTHONPATH': f'{HERE}:{HERE.parents[1]}', 'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true'}
    env['MLFLOW_ALLOW_FILE_STORE'] = 'true'
    done = subprocess.run([*TRIAL_COMMAND, str(folder)], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / 'result.json').read_text())


@pytest.mark.slow
@needs('tensorboard')
def test_tensorboard_shows_the_numbers_of_a_real_trial(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    folder, result = train(tmp_path, dict(type='TensorboardVisBackend'))
    (events, *_) = sorted({path.parent for path in folder.glob('run/*/vis_data/events.out.*')})
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    content = accumulator.summary_metadata['_hparams_/session_start_info'].plugin_data.content
    numbers = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    found = {name: value.number_value or value.string_value for name, value in numbers.items()}
    assert found == TRIAL
    assert [event.value for event in accumulator.Scalars('accuracy/top1')][-1] == pytest.approx(result['value'])
    assert 'loss' in accumulator.Tags()['scalars']


@pytest.mark.slow
@needs('mlflow')
def test_mlflow_on_disk_shows_the_numbers_of_a_real_trial(tmp_path, monkeypatch):
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    import mlflow

    _, result = train(tmp_path, dict(type='MLflowVisBackend'))
    client = mlflow.MlflowClient(tracking_uri=f'file://{tmp_path}/my_search/mlruns')
    (experiment,) = client.search_experiments(filter_string="name = 'my_search'")
    (run,) = client.search_runs([experiment.experiment_id], filter_string="tags.trial = 'grid-01'")
    assert run.info.run_name == 'grid-01'
    assert {name: run.data.tags[name] for name in TRIAL} == {name: str(value) for name, value in TRIAL.items()}
    assert float(run.data.params['lr']) == 0.4
    assert run.data.metrics['accuracy/top1'] == pytest.approx(result['value'])


def records_in(log):
    """The records of a file of W&B: LevelDB's log format, with a header of 7 bytes."""
    place, part = 7, b''
    while place < len(log):
        if (rest := 32768 - place % 32768) < 7:
            place += rest
        length, kind = int.from_bytes(log[place + 4 : place + 6], 'little'), log[place + 6]
        part += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield part
            part = b''


@pytest.mark.slow
@needs('wandb')
def test_wandb_offline_keeps_the_numbers_of_a_real_trial(tmp_path):
    from wandb.proto import wandb_internal_pb2

    folder, _ = train(tmp_path, dict(type='WandbVisBackend', init_kwargs=dict(project='fixnorm', mode='offline')))
    (path,) = folder.glob('run/*/vis_data/wandb/offline-run-*/run-*.wandb')
    records = map(wandb_internal_pb2.Record.FromString, records_in(path.read_bytes()))
    run = next(record.run for record in records if record.HasField('run'))
    assert (run.project, run.run_group, run.display_name) == ('fixnorm', 'my_search', 'grid-01')
    assert set(run.tags) == {'my_search', 'grid'}
    found = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert {name: found[name] for name in TRIAL} == TRIAL
