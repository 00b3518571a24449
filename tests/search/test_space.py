"""``search.space`` from the config to the report: checks, identity, record, tables, files."""

import json
import re

import optuna
import pytest
from mmengine.config import Config
from rich.console import Console

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import differences, load_problem
from mmfixnorm.search.record.compare import read_studies
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import STUDY_FILE
from mmfixnorm.search.report import write_report
from mmfixnorm.search.report.curves import slices
from mmfixnorm.search.terminal.console import print_plan, print_state
from tests.pages import figures_of

EXTRA = """
warm_up = 3
optim_wrapper = dict(optimizer=dict(type='Adam', lr=0.1, betas=(0.9, 0.999), weight_decay=1e-4))
model = dict(depth=2, head=dict(type='Head', alpha=1.0, dropout=0.5, bias=True))
train_dataloader = dict(batch_size=32, num_workers=2)
param_scheduler = [dict(type='LinearLR', begin=0, end=warm_up), dict(type='CosineAnnealingLR', eta_min=0.001)]
randomness = dict(seed=0)
"""
DROPOUT, BETA, DEPTH = 'model.head.dropout', 'optim_wrapper.optimizer.betas.0', 'model.depth'
SPACE = f'{{{DROPOUT!r}: (0, 0.6), {BETA!r}: (0.8, 0.95), {DEPTH!r}: dict(low=1, high=8, log=True)}}'


def block(space=SPACE, more=''):
    return f"type='RandomSearch', num_trials=3, alpha_range=(0.5, 16), space={space}{more}"


@pytest.fixture
def load(write_config, tmp_path):
    def load(space=SPACE, more='', extra=EXTRA, **options):
        return load_problem(write_config(block(space, more), extra=extra), work_dir=tmp_path / 'w', **options)

    return load


@pytest.mark.parametrize(
    ('key', 'more', 'message'),
    [
        (
            'model.head.dropuot',
            '',
            r"no key 'dropuot', did you mean 'dropout'\? \(it has: alpha, bias, dropout, type\)",
        ),
        ('modle.head.dropout', '', r"the config has no key 'modle', did you mean 'model'"),
        ('model.head.type', '', r"'model\.head\.type' must be a number in the config, got 'Head'"),
        ('model.head.bias', '', r'must be a number in the config, got True'),
        ('model.head', '', r'must be a number in the config, got \{'),
        ('optim_wrapper.optimizer.lr', '', r'is tuned by search\.lr_key as well; take it out of one of them'),
        ('model.head.alpha', '', r'is tuned by search\.alpha_key as well'),
        ('param_scheduler.1.eta_min', ", linked_keys='param_scheduler.1.eta_min'", r'tuned by search\.linked_keys as'),
        ('train_cfg.max_epochs', '', r'the length of the trainings is what costs are counted in, and cannot be tuned'),
        ('search.num_trials', '', r"'search\.num_trials' changes nothing in a training; tune a number below model, "),
        ('train_dataloader.num_workers', '', r'changes nothing in a training'),
        ('randomness.seed', '', r'changes nothing in a training'),
        ('work_dir.x', '', r"the config has no key 'work_dir'"),
    ],
)
def test_a_key_that_cannot_be_tuned_is_refused(load, key, more, message):
    with pytest.raises(ConfigError, match=rf'search\.space\.{re.escape(key)}: .*{message}'):
        load(f'{{{key!r}: (0.1, 0.2)}}', more)


def test_weight_decay_is_tuned_once(load):
    key = 'optim_wrapper.optimizer.weight_decay'
    assert load(f'{{{key!r}: (0, 1e-3)}}').settings.space  # beside alpha
    with pytest.raises(ConfigError, match=r'is tuned by search\.weight_decay_key as well'):
        load(f'{{{key!r}: (0, 1e-3)}}', ', weight_decay_range=(1e-5, 1e-3)', cfg_options={'search.alpha_range': None})


def test_a_trial_s_config_has_the_numbers_and_the_given_one_stays(load):
    problem = load()
    spec = Spec('random-00', 'random', Point(0.4, 2.0, others=((DEPTH, 3), (DROPOUT, 0.25), (BETA, 0.85))), 1.0)
    cfg = problem.trial_config(spec)
    assert (cfg.model.depth, cfg.model.head.dropout, cfg.model.head.alpha) == (3, 0.25, 2.0)
    assert cfg.optim_wrapper.optimizer.to_dict() == dict(type='Adam', lr=0.4, betas=(0.85, 0.999), weight_decay=1e-4)
    assert (problem.cfg.model.depth, problem.cfg.optim_wrapper.optimizer.betas) == (2, (0.9, 0.999))
    task = problem.trial_task(spec, attempt=1, fingerprint='f')
    assert json.loads(json.dumps(task))['others'] == {DEPTH: 3, DROPOUT: 0.25, BETA: 0.85}
    assert 'others' not in problem.trial_task(Spec('a', 'a', Point(0.4, 2.0), 1.0), attempt=1, fingerprint='f')


def test_integers_are_what_the_config_and_both_ends_say(load):
    space = load().settings.space
    assert {key: of.integer for key, of in space.items()} == {DEPTH: True, DROPOUT: False, BETA: False}
    assert load(extra=EXTRA.replace('depth=2', 'depth=2.0')).settings.space[DEPTH].integer is False


def test_the_space_is_part_of_the_search_and_the_config_s_own_numbers_are_not(load):
    identity = load().identity
    assert not any(key.startswith(('config.model.depth', 'config.model.head.dropout')) for key in identity)
    assert load(extra=EXTRA.replace('dropout=0.5', 'dropout=0.1')).identity == identity
    assert load('{}').identity['config.model.head.dropout'] == '0.5'
    assert not any('space' in key for key in load('{}').identity)
    wider = load(SPACE.replace('0.6', '0.7')).identity
    assert differences(identity, wider) == ['search.space']
    again = load(f'dict(reversed({SPACE}.items()))').identity
    assert differences(identity, again) == []


def test_the_record_the_tables_the_report_and_the_winning_config_have_it(make_search, tmp_path):
    events = []
    search = make_search(block(more=', confirm_seeds=1'), extra=EXTRA)
    assert search.run(listener=events.append).kind == 'done'
    problem, record = search.problem(), search.record()
    state = search_state(problem, record)
    best = state.best.point
    assert [list(dict(a.spec.point.others)) for a in record.attempts] == [[DEPTH, DROPOUT, BETA]] * 5
    assert {a.spec.point for a in record.attempts if a.spec.seed} <= {a.spec.point for a in record.attempts[:3]}
    submitted = [e.data for e in events if e.kind == 'submitted']
    assert all(Spec.from_dict(data).point.others for data in submitted)
    assert next(e for e in events if e.kind == 'finished').data['best']['others'] == dict(best.others)

    study = optuna.load_study(study_name='search', storage=f'sqlite:///{problem.work_dir / STUDY_FILE}')
    assert [t.params for t in study.trials] == [a.spec.point.values for a in record.attempts]

    console = Console(record=True, width=200)
    print_plan(load_problem(search.config, work_dir=tmp_path / 'new'), [], console)
    print_state(problem, state, console)
    text = console.export_text()
    assert min(map(text.count, ('dropout', 'betas.0', 'depth'))) >= 3  # two tables and the line of the winner

    files = write_report(problem, record, compare=[])
    page = files.report.read_text()
    titles = [figure['layout']['title']['text'] for figure in figures_of(page)]
    assert [f'accuracy/top1 against {key}' in titles for key in (DEPTH, DROPOUT, BETA)] == [True] * 3
    assert re.search('<th[^>]*>betas.0</th>', page)
    cfg = Config.fromfile(files.best_config)
    expected = (best.values[DEPTH], best.values[DROPOUT], (best.values[BETA], 0.999), best.lr)
    optimizer = cfg.optim_wrapper.optimizer
    assert (cfg.model.depth, cfg.model.head.dropout, optimizer.betas, optimizer.lr) == expected

    (of_depth, *_) = slices(problem.settings, state)
    assert (of_depth.key, of_depth.is_log) == (DEPTH, True)
    assert sorted(zip(of_depth.keys, of_depth.values)) == [(r.key, r.value) for r in state.rows[:3]]
    (recorded,) = read_studies([problem.work_dir])  # from the record alone
    assert recorded.settings.space == problem.settings.space
    assert search.run().kind == 'done'
    assert len(search.trainings()) == 5


def test_bayesian_proposals_with_a_space_are_read_back_from_the_record(make_search):
    text = block().replace('RandomSearch', 'BayesianSearch') + ", sampler='tpe', num_startup_trials=2"
    search = make_search(text, extra=EXTRA)
    assert search.run().kind == 'done'
    record = search.record()
    assert [a.spec for a in record.attempts] == record.proposed
    assert all(type(s.point.values[DEPTH]) is int for s in record.proposed)
