"""tools/fixnorm_search.py: exit codes and messages; bad input loses nothing."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from mmfixnorm.search.record.study import read_record

TOOL = Path(__file__).parents[2] / 'tools' / 'fixnorm_search.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('fixnorm_search', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cli(tool, fake_trial, capsys, tmp_path):
    """Run the tool; return exit code, stdout and stderr."""

    def run(*argv, mode='plain'):
        argv = [*map(str, argv), '--work-dir', str(tmp_path / 'w')]
        code = tool.main(argv, trial_command=fake_trial(mode))
        return (code, *capsys.readouterr())

    return run


SPACE = "type='RandomSearch', alpha_range=(1, 8), space={}"
BAD = [  # search block, lines added to the config, what the message says
    ('lr_rnge=(0.2, 3.2)', '', r"search.lr_rnge: FixNormSearch has no such key, did you mean 'lr_range'?"),
    ('lr_range=()', '', 'search.lr_range: must be a pair'),
    ('lr_range=(3.2, 0.2)', '', 'search.lr_range: must be a pair'),
    (
        "lr_range=(float('nan'), 3.2)",
        '',
        'search.lr_range: must be a pair (lr_min, lr_max) with 0 < lr_min < lr_max, got nan',
    ),
    ('alphas=[1.0, 0.0]', '', 'search.alphas: must be a finite number > 0, got 0.0'),
    ('alphas=[-1.0]', '', 'search.alphas: must be a finite number > 0, got -1.0'),
    ("alphas=[float('nan')]", '', 'search.alphas: must be a finite number > 0, got nan'),
    ("extend='up'", '', "search.extend: must be True or False, got 'up'"),
    ("alpha_key='model.head.alfa'", '', "`model.head` has no key 'alfa', did you mean 'alpha'?"),
    ("type='BayesianSearch'", '', 'search.weight_decay_range: give either weight_decay_range or alpha_range'),
    (
        "type='BayesianSearch', weight_decay_range=(1e-5, 5e-4)",
        '',
        "search.weight_decay_key: 'optim_wrapper.optimizer.weight_decay' is not in the config",
    ),
    ("type='SuccessiveHalvingSearch', alpha_range=(1, 8), num_trials=2", '', 'search.num_trials: must be at least 9'),
    (
        SPACE.format("{'model.head.alfa': (0, 1)}"),
        '',
        "search.space.model.head.alfa: 'model.head.alfa' is not in the config",
    ),
    (SPACE.format("{'model.head.alpha': (0, 1)}"), '', 'search.space.model.head.alpha: '),
    (SPACE.format("{'train_cfg.max_epochs': (1, 9)}"), '', 'search.space.train_cfg.max_epochs: the length'),
    (SPACE.format("{'optim_wrapper.optimizer.lr': (1, 0)}"), '', 'search.space.optim_wrapper.optimizer.lr: must be'),
    ("space={'model.head.alpha': (0, 1)}", '', 'search.space: FixNormSearch has no such key'),
    ('', "model = dict(type='NoHead')\n", "'model.head.alpha' is not in the config"),
    (
        '',
        "val_dataloader = dict(dataset=dict(data_root='/no/such/folder'))\n",
        "val_dataloader.dataset.data_root: no such file or folder: '/no/such/folder'",
    ),
    ('', 'search = None\n', 'the config needs a block search'),
    ('', 'train_cfg = dict(by_epoch=True, max_epochs=1)\n', 'cannot be a shorter training'),
]


@pytest.mark.parametrize(('search', 'extra', 'message'), BAD)
@pytest.mark.parametrize('action', ['plan', 'run'])
def test_bad_input_ends_with_status_2_before_anything_runs(cli, write_config, tmp_path, action, search, extra, message):
    code, _, err = cli(action, write_config(search, extra=extra))
    # A plan starts nothing, so missing data are a warning there.
    assert code == (0 if action == 'plan' and 'data_root' in extra else 2)
    assert message.partition(': ')[0] in err if code == 0 else message in err
    assert 'Traceback' not in err
    assert not (tmp_path / 'w').exists()


def test_a_missing_config_ends_with_status_2(cli):
    code, _, err = cli('run', '/no/such/config.py')
    assert (code, 'no such config file' in err) == (2, True)


def test_a_number_of_workers_below_1_ends_with_status_2(cli, write_config):
    code, _, err = cli('run', write_config(), '--workers', 0)
    assert (code, '--workers: must be an integer >= 1, got 0' in err) == (2, True)


def test_an_unwritable_work_dir_ends_with_status_2(tool, write_config, fake_trial, capsys, tmp_path):
    (tmp_path / 'file').touch()  # also root cannot make a folder below a file
    argv = ['run', write_config(), '--work-dir', str(tmp_path / 'file' / 'w')]
    assert tool.main(argv, trial_command=fake_trial()) == 2
    assert '--work-dir: cannot write to' in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_work_dir_without_permission_ends_with_status_2(cli, write_config, tmp_path):
    (tmp_path / 'w').mkdir(mode=0o500)
    assert cli('run', write_config())[0] == 2


def test_an_empty_set_to_fix_ends_with_status_2_and_its_message(cli, write_config, small):
    code, _, err = cli('run', write_config(small), mode='broken')
    assert code == 2
    assert 'trial r0-k0: the set of weights to fix is empty' in err


def test_another_space_in_the_same_folder_ends_with_status_2_and_loses_nothing(cli, write_config, small, tmp_path):
    cli('run', write_config(small))
    before = [a.spec.key for a in read_record(tmp_path / 'w').attempts]
    code, _, err = cli('run', write_config('lr_range=(0.1, 3.2), num_splits=2, alphas=[1.0, 4.0]'))
    assert code == 2
    assert 'search.lr_range: was (0.2, 3.2), is (0.1, 3.2)' in err
    assert [a.spec.key for a in read_record(tmp_path / 'w').attempts] == before
    assert cli('run', write_config(small))[0] == 0


def test_a_corrupt_result_ends_with_status_2_and_loses_nothing(cli, write_config, small, tmp_path):
    code, _, err = cli('run', write_config(small), mode='corrupt-r0-k1')
    assert code == 2
    assert 'r0-k1/result.json: not a valid result' in err
    assert 'move that file away' in err
    assert [a.spec.key for a in read_record(tmp_path / 'w').attempts] == ['r0-k0']


def test_a_record_that_is_none_ends_with_status_2(cli, write_config, small, tmp_path):
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'study.db').write_bytes(b'no database')
    code, _, err = cli('run', write_config(small))
    assert (code, 'not the record of a search' in err) == (2, True)
    assert (tmp_path / 'w' / 'study.db').read_bytes() == b'no database'


@pytest.mark.parametrize('action', ['status', 'report'])
def test_nothing_to_tell_of_ends_with_status_2(cli, write_config, action):
    code, _, err = cli(action, write_config())
    assert (code, 'no search was started' in err) == (2, True)


def test_a_search_without_a_winner_ends_with_status_1(cli, write_config, small):
    code, _, err = cli('run', write_config(small), mode='diverge-all')
    assert code == 1
    assert 'stuck: all 2 trainings of round 0 diverged' in err


def test_plan_prints_every_known_training_and_the_cost(cli, write_config, tmp_path):
    code, out, _ = cli('plan', write_config())
    assert code == 0
    assert all(f'r0-k{k}' in out for k in range(5))
    assert 'in all: 15 trainings, 11 T_max' in out
    assert not (tmp_path / 'w').exists()


def test_run_status_and_report_tell_the_same_winner(cli, write_config, small, tmp_path):
    code, out, _ = cli('run', write_config(small), '--workers', 2, '--log-format', 'json')
    assert code == 0
    events = [json.loads(line) for line in out.splitlines() if line.startswith('{')]
    finished = next(e for e in events if e['event'] == 'finished')
    assert finished['best']['key'] == 'alpha-1'
    assert {'opened', 'submitted', 'recorded', 'closed', 'finished'} <= {e['event'] for e in events}
    assert 'winner: lr 1.7, alpha 4: accuracy/top1 88' in cli('status', write_config(small))[1]
    assert cli('report', write_config(small))[0] == 0
    assert (tmp_path / 'w' / 'report.html').exists()


def test_options_change_the_search(cli, write_config):
    code, out, _ = cli('plan', write_config(), '--cfg-options', 'search.num_splits=3')
    assert (code, 'in all: 11 trainings, 8.6 T_max' in out) == (0, True)


def test_plan_goes_on_from_the_record(cli, write_config, small):
    cli('run', write_config(small + ', max_attempts=1'), mode='fail-r1-k0')
    code, out, _ = cli('plan', write_config(small))
    assert code == 0
    assert 'r1-k0' in out
    assert 'r0-k0' not in out


def test_status_of_another_search_ends_with_status_2(cli, write_config, small):
    cli('run', write_config(small))
    code, _, err = cli('status', write_config('lr_range=(1.0, 9.0), num_splits=2, alphas=[1.0, 4.0]'))
    assert (code, 'holds another search' in err) == (2, True)


def test_what_trainings_warn_of_is_told_once(cli, write_config, small, tmp_path):
    config = write_config(small)
    told = [f'r0-k0: class {name} never occurs, at lr 1.7' for name in ('cat', 'dog')]
    code, out, _ = cli('run', config, mode='warning')
    assert code == 0
    assert [line.split(maxsplit=1)[1] for line in out.splitlines() if 'never occurs' in line] == told
    code, out, _ = cli('status', config)
    assert [line for line in out.splitlines() if 'never occurs' in line] == [f'WARNING: {text}' for text in told]
    assert cli('report', config)[0] == 0
    page = (tmp_path / 'w' / 'report.html').read_text()
    assert [page.count(text) for text in told] == [1, 1]
