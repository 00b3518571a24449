"""docs/troubleshooting.md: every message there is real, and every message provoked here is there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.failures import explain_missing
from mmfixnorm.search._utils.files import writing_to
from mmfixnorm.search.driver import check_folder, run_search
from mmfixnorm.search.executors.base import Exit, UnavailableError
from mmfixnorm.search.executors.claim import check_owner
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.lock import driver_lock
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import STUDY_FILE, read_record
from mmfixnorm.search.trial import __main__ as trial
from mmfixnorm.search.trial import readback as built
from mmfixnorm.search.trial.folder import read_result

TASK = {'lr': 0.4, 'alpha': 2.0, 'weight_decay': 1e-4, 'alpha_keys': ['model.head.alpha']}
KEEP = "keep_total_batch=True, executor=dict(type='local', gpus_per_trial="
HALF = 'train_dataloader.update(batch_size=32)\nauto_scale_lr = dict(base_batch_size=64)\n'
SPACE = "type='RandomSearch', alpha_range=(1, 8), space={{'{}': (0, 1)}}"


def flat(text):
    return ' '.join(text.split())


@pytest.fixture(scope='module')
def shown(pytestconfig):
    """The messages of the page, as patterns."""
    page = (pytestconfig.rootpath / 'docs' / 'troubleshooting.md').read_text()
    lines = [line for block in re.findall(r'```text\n(.*?)```', page, re.DOTALL) for line in block.splitlines()]
    return {line: re.compile(re.escape(flat(line)).replace(r'\.\.\.', '.*').replace('KEY', r'\w+')) for line in lines}


@pytest.fixture
def told():
    """Collect the message of the error that a call ends with."""
    messages = []

    def call(function, *args, **kwargs):
        with pytest.raises((ConfigError, ImportError)) as raised:
            function(*args, **kwargs)
        messages.append(str(raised.value))

    call.messages = messages
    return call


def before_anything_runs(told, write_config, tmp_path):
    told(load_problem, '/no/such/config.py')
    told(load_problem, write_config(), workers=0)
    for search, extra in [
        ('', 'search = None\n'),
        ('lr_rnge=(1, 2)', ''),
        ('lr_range=(3.2, 0.2)', ''),
        ("executor=dict(type='slurm', nodes_per_trial=2, gpus_per_trial=5)", ''),
        ('keep_total_batch=True', ''),
        (f'{KEEP}2)', 'train_dataloader.update(batch_size=24)\nauto_scale_lr = dict(base_batch_size=64)\n'),
        (f'{KEEP}1)', f'{HALF}custom_hooks = [dict(type="EMAHook")]\n'),
        ('alphas=[0.0]', ''),
        ('num_splits=1', ''),
        ("alpha_key='model.head.alfa'", ''),
        (SPACE.format('optim_wrapper.optimizer.lr'), ''),
        (SPACE.format('train_cfg.max_epochs'), ''),
        (SPACE.format('randomness.seed'), 'randomness = dict(seed=0)\n'),
        ('', 'train_cfg = dict(by_epoch=True, max_epochs=1)\n'),
        ('', "val_dataloader = dict(dataset=dict(data_root='/no/such/folder'))\n"),
    ]:
        told(load_problem, write_config(search, extra=extra))
    told.messages.append(explain_missing(ModuleNotFoundError("No module named 'own'", name='own'), 'custom_imports'))
    told.messages.append(explain_missing(ModuleNotFoundError('', name='mmdet.models'), 'custom_imports'))
    (tmp_path / 'file').touch()
    told(run_search, load_problem(write_config(), work_dir=tmp_path / 'file' / 'w'))


def going_on(told, make_search, small, tmp_path):
    search = make_search(small)
    told(search.record)
    told(read_record, Path('/') / ('x' * 300))
    search.run()
    told(search.run, search__lr_range=(0.1, 3.2))
    told(search_state, search.problem(search__lr_range=(0.1, 3.2)), search.record())
    with driver_lock(search.work_dir):
        told(search.run)
    folder, spec = search.work_dir / 'trials' / 'r0-k0', Spec('r0-k0', 'round 0', Point(9.0, 1.0), 0.2)
    told(check_folder, folder, spec, search.record().fingerprint)
    told(check_folder, folder, spec, 'other')
    told(read_result, folder, key='r0-k0', attempt=1, fingerprint='other')
    for name, read in (('result.json', read_result), ('spec.json', None)):
        (folder / name).write_text('{"key": "r0')
        given = {'key': 'r0-k0', 'attempt': 1, 'fingerprint': 'f'}
        told(read, folder, **given) if read else told(check_folder, folder, spec, 'f')
    (folder / 'result.json').unlink()
    (folder / 'result.json').mkdir()  # a missing permission would not keep root out
    told(read_result, folder, key='r0-k0', attempt=1, fingerprint='f')
    (tmp_path / STUDY_FILE).write_bytes(b'no database')
    told(read_record, tmp_path)
    with pytest.raises(ConfigError) as full, writing_to(tmp_path):
        raise OSError(28, 'No space left on device')
    told.messages.append(str(full.value))
    claim = tmp_path / 'attempt-1.claim'
    claim.write_text('1 1 elsewhere\n')
    told(LocalExecutor(1, ['false']).poll, str(claim))
    told(check_owner, claim, 'slurm')


def broken(told):
    told(trial.metric_value, {'accuracy/top1': 1.0}, 'accuracy/top5')
    told(built.check_built, TASK, [0.2], [2.0], [1e-4])
    told(built.check_built, TASK, [0.4], [1.0], [1e-4])
    told(built.check_built, TASK, [0.4], [2.0], [0.0])
    told(built.built_value, object(), 'model.head')
    runner = SimpleNamespace(model=SimpleNamespace(head=SimpleNamespace(dropout=0.1)))
    told(built.check_space, {'others': {'model.head.dropout': 0.3}}, runner)


class Away(LocalExecutor):
    """Does not answer at first."""

    asked = 0

    def refresh(self):
        self.asked += 1
        if self.asked == 1:
            raise UnavailableError('sacct: slurm_persist_conn_open: failed')


def failing(told, make_search, small, fake_trial):
    told.messages.append(make_search(small + ', max_attempts=1', 'fail').run('fail').message)
    told.messages.append(make_search(small, 'diverge').run('diverge-all').message)
    told.messages.append(str(Exit(-9)))
    told.messages.append(str(Exit(1)))
    hung = make_search(small + ', max_attempts=1, timeout_s=0.2', 'hang')
    hung.run('hang')
    told.messages.append(hung.record().attempts[0].result.message)
    heard = []
    problem = make_search('lr_range=(0.2, 0.5), num_splits=2, alphas=[1.0]', 'edge').problem()
    run_search(problem, executor=Away(1, fake_trial()), listener=heard.append, poll_s=0.01)
    told.messages += [e.text for e in heard if e.kind == 'warning']


def test_the_page_and_the_messages_are_the_same(shown, told, write_config, make_search, small, fake_trial, tmp_path):
    before_anything_runs(told, write_config, tmp_path)
    going_on(told, make_search, small, tmp_path)
    broken(told)
    failing(told, make_search, small, fake_trial)
    messages = [flat(m) for m in told.messages]
    missing = [m for m in messages if not any(p.match(m) for p in shown.values())]
    assert missing == []
    unreal = [line for line, p in shown.items() if not any(p.match(m) for m in messages)]
    assert unreal == []
