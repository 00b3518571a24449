"""search.executor: what it accepts, what it refuses, and what of it is part of the search."""

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors import build_executor, choose_executor, local, ray
from mmfixnorm.search.executors.base import in_processes
from mmfixnorm.search.executors.local import LocalExecutor, LocalSettings
from mmfixnorm.search.executors.manual import ManualExecutor
from mmfixnorm.search.executors.ray import RayExecutor, RaySettings
from mmfixnorm.search.executors.slurm import SlurmExecutor, SlurmSettings
from mmfixnorm.search.methods import parse_settings

BAD = [
    ('slrum', r"search\.executor: must be one of \['local', 'manual', 'ray', 'slurm'\].*did you mean 'slurm'"),
    (3, r'search\.executor: must be one of .* got 3'),
    (dict(partition='gpu'), r'search\.executor: must be one of'),
    (dict(type='slurm', partitoin='gpu'), r"executor\.partitoin: slurm has no such key, did you mean 'partition'"),
    (
        dict(type='local', partition='gpu'),
        r'executor\.partition: local has no .*it has: gpus_per_trial, trials_per_gpu',
    ),
    (dict(type='local', gpus_per_trial=0), r'search\.executor\.gpus_per_trial: must be an integer >= 1, got 0'),
    (dict(type='local', trials_per_gpu=1.5), r'search\.executor\.trials_per_gpu: .*got 1\.5'),
    (dict(type='slurm', gpus_per_trial=-1), r'search\.executor\.gpus_per_trial: must be an integer >= 0'),
    (dict(type='slurm', time_min=0), r'search\.executor\.time_min'),
    (dict(type='slurm', partition=''), r"search\.executor\.partition: must be a name, got ''"),
    (dict(type='slurm', setup='module load cuda'), r'search\.executor\.setup: must be a list of strings'),
    (dict(type='slurm', sbatch_args=[32]), r'search\.executor\.sbatch_args: must be a list of strings'),
    (
        dict(type='slurm', nodes_per_trial=2, gpus_per_trial=5),
        r'executor\.gpus_per_trial: must be a multiple of nodes_per_trial, 2: .* for all nodes .* together, got 5',
    ),
    (
        dict(type='slurm', nodes_per_trial=2, gpus_per_trial=2, cpus_per_trial=3),
        r'executor\.cpus_per_trial: must be a multiple .* got 3',
    ),
    (
        dict(type='slurm', notice_s=120, time_min=2),
        r'executor\.notice_s: must be below the time limit of a job, time_min = 2 \(120 s\), got 120',
    ),
    (dict(type='slurm', nodes_per_trial=0), r'search\.executor\.nodes_per_trial: must be an integer >= 1, got 0'),
    (dict(type='ray', nodes_per_trial=3, gpus_per_trial=4), r'executor\.gpus_per_trial: must be a multiple .* got 4'),
    (dict(type='manual', nodes_per_trial=2), r'executor\.gpus_per_trial: must be a multiple of nodes_per_trial, 2'),
    (dict(type='local', nodes_per_trial=2), r'executor\.nodes_per_trial: local has no such key'),
    (dict(type='slurm', poll_s=0), r'search\.executor\.poll_s: must be a finite number > 0'),
    (dict(type='ray', gpus_per_trial=0.5), r'search\.executor\.gpus_per_trial: must be an integer >= 0, got 0\.5'),
    (dict(type='ray', cpus_per_trial=0), r'search\.executor\.cpus_per_trial: must be an integer >= 1, got 0'),
    (dict(type='ray', address=''), r"search\.executor\.address: must be 'auto' or an address, got ''"),
    (dict(type='ray', resources=['A100']), r'search\.executor\.resources: must be a dict of names and amounts'),
    (dict(type='ray', resources={'A100': 0}), r'search\.executor\.resources\.A100: must be a finite number > 0, got 0'),
    (dict(type='ray', resources={'GPU': 2}), r"search\.executor\.resources: must be without CPU and GPU .*got 'GPU'"),
    (dict(type='ray', setup='module load cuda'), r'search\.executor\.setup: must be a list of strings'),
]


@pytest.mark.parametrize(('executor', 'message'), BAD)
def test_a_bad_executor_is_refused_with_its_key(executor, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(dict(executor=executor))


@pytest.mark.parametrize('backoff_s', [-1, float('nan'), '1'])
def test_a_bad_backoff_is_refused(backoff_s):
    with pytest.raises(ConfigError, match=r'search\.backoff_s: must be a finite number >= 0'):
        parse_settings(dict(backoff_s=backoff_s))


@pytest.mark.parametrize(
    ('change', 'same'),
    [
        (dict(executor='slurm'), True),
        (dict(executor=dict(type='slurm', gpus_per_trial=0, partition='gpu')), True),
        (dict(executor=dict(type='local', trials_per_gpu=2)), True),
        (dict(executor='manual', backoff_s=0), True),
        (dict(executor=dict(type='ray', cpus_per_trial=4, resources={'A100': 1})), True),
        (dict(executor=dict(type='ray', gpus_per_trial=2)), False),
        (dict(executor=dict(type='local', gpus_per_trial=2)), False),
        (dict(executor=dict(type='slurm', nodes_per_trial=2, gpus_per_trial=0)), False),  # a process on each
    ],
)
def test_only_the_number_of_processes_of_a_trial_is_part_of_the_search(change, same):
    assert (parse_settings(change).identity() == parse_settings({}).identity()) == same


def test_two_executors_with_as_many_processes_are_the_same_search():
    one, other = (dict(executor=dict(type=name, gpus_per_trial=4)) for name in ('local', 'slurm'))
    assert parse_settings(one).identity() == parse_settings(other).identity()
    other['executor']['nodes_per_trial'] = 2
    assert parse_settings(one).identity() == parse_settings(other).identity()


def test_the_command_line_keeps_the_configs_own_settings_of_the_executor_that_it_names():
    slurm = SlurmSettings(partition='gpu', gpus_per_trial=2)
    assert choose_executor(slurm, None) == choose_executor(slurm, 'slurm') == slurm
    assert choose_executor(slurm, 'local') == LocalSettings(gpus_per_trial=2)
    on_two = SlurmSettings(partition='gpu', gpus_per_trial=4, nodes_per_trial=2)
    assert choose_executor(on_two, 'ray') == RaySettings(gpus_per_trial=4, nodes_per_trial=2)
    assert choose_executor(on_two, 'local') == LocalSettings(gpus_per_trial=4)


def test_a_notice_is_below_the_limit_that_comes_from_the_time_limit_of_an_attempt():
    settings = parse_settings(dict(executor=dict(type='slurm', notice_s=900), timeout_s=600))
    with pytest.raises(ConfigError, match=r'notice_s: must be below .* search\.timeout_s in minutes = 10 \(600 s\)'):
        build_executor(settings, ['true'])


@pytest.mark.parametrize(
    ('executor', 'kind'),
    [('local', LocalExecutor), ('slurm', SlurmExecutor), ('ray', RayExecutor), ('manual', ManualExecutor)],
)
def test_each_name_builds_its_executor(executor, kind, monkeypatch):
    monkeypatch.setattr(local, 'visible_gpus', list)
    monkeypatch.setattr(ray, 'is_installed', lambda: True)
    assert type(build_executor(parse_settings(dict(executor=executor)), ['true'])) is kind


@pytest.mark.parametrize(
    ('settings', 'workers', 'gpus', 'message'),
    [
        (
            LocalSettings(gpus_per_trial=2),
            1,
            1,
            r'gpus_per_trial: must be at most the number of visible GPUs, 1, got 2',
        ),
        (LocalSettings(trials_per_gpu=2), 5, 2, r'have places for 4 trials, got 5 workers'),
        (LocalSettings(gpus_per_trial=2, trials_per_gpu=1), 3, 5, r'have places for 2 trials, got 3 workers'),
        (LocalSettings(trials_per_gpu=2), 4, 2, None),
        (LocalSettings(), 9, 2, None),
        (LocalSettings(gpus_per_trial=2, trials_per_gpu=1), 9, 0, None),
    ],
)
def test_trials_without_a_place_are_told_before_anything_runs(settings, workers, gpus, message):
    if message is None:
        settings.check_places(workers, gpus)
    else:
        with pytest.raises(ConfigError, match=message):
            settings.check_places(workers, gpus)


def test_one_process_needs_no_launcher():
    assert in_processes(['python', 'train.py'], LocalSettings()) == ['python', 'train.py']
