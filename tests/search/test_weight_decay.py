"""Weight decay as a tuned number: config, proof, record, tables and files."""

import math
import re
from dataclasses import asdict

import optuna
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from rich.console import Console

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record import study
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import STUDY_FILE
from mmfixnorm.search.report import write_report
from mmfixnorm.search.report.curves import alpha_curves, lr_curves, point_map
from mmfixnorm.search.terminal.console import print_plan, print_state
from mmfixnorm.search.trial import readback as built

BLOCK = "type='RandomSearch', num_trials=4, weight_decay_range=(1e-5, 5e-4)"
KEY = 'optim_wrapper.optimizer.weight_decay'
SPEC = Spec('random-00', 'random', Point(0.8, weight_decay=3e-5), 1.0)
TASK = dict(lr=0.4, alpha=None, weight_decay=3e-5, alpha_keys=[])


def build(**paramwise_cfg):
    """An optimizer as mmengine builds it."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = dict(type='SGD', lr=0.4, weight_decay=3e-5)
    return build_optim_wrapper(model, dict(optimizer=optimizer, paramwise_cfg=paramwise_cfg or None))


def test_a_trial_s_config_has_lr_and_weight_decay_and_the_given_one_stays(write_config, decaying, tmp_path):
    problem = load_problem(write_config(BLOCK, extra=decaying), work_dir=tmp_path / 'w')
    cfg = problem.trial_config(SPEC)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay) == (0.8, 3e-5)
    assert problem.cfg.optim_wrapper.optimizer.weight_decay == 1e-4
    assert problem.tuned(SPEC.point) == {'optim_wrapper.optimizer.lr': 0.8, KEY: 3e-5}


def test_several_places_can_take_the_weight_decay(write_config, decaying):
    extra = decaying.replace('))', '), other=dict(weight_decay=1e-4))')
    keys = f"weight_decay_key=['{KEY}', 'optim_wrapper.other.weight_decay']"
    problem = load_problem(write_config(f'{BLOCK}, {keys}', extra=extra))
    assert set(problem.tuned(SPEC.point).values()) == {0.8, 3e-5}
    assert len(problem.tuned(SPEC.point)) == 3


def test_a_config_without_weight_decay_is_refused(write_config):
    with pytest.raises(ConfigError, match=r"search\.weight_decay_key: .* has no key 'weight_decay'"):
        load_problem(write_config(BLOCK))


def test_the_config_s_own_value_is_no_part_of_the_search_where_it_is_tuned(write_config, decaying):
    def identity(block, value):
        return load_problem(write_config(block, extra=decaying.replace('1e-4', value))).identity

    assert identity(BLOCK, '1e-4') == identity(BLOCK, '2e-4')
    fixed = BLOCK.replace('weight_decay_range=(1e-5, 5e-4)', 'alpha_range=(1, 8)')
    assert identity(fixed, '1e-4') != identity(fixed, '2e-4')


@pytest.mark.parametrize('paramwise_cfg', [{}, dict(norm_decay_mult=0.0), dict(bias_decay_mult=0.0)])
def test_weight_decay_took_effect_if_one_trained_group_has_it(paramwise_cfg):
    found = built.built_weight_decays(build(**paramwise_cfg))
    assert found == ([0.0, 3e-5] if paramwise_cfg else [3e-5])
    built.check_built(TASK, [0.4], [], found)


def test_weight_decay_that_paramwise_cfg_takes_from_everything_is_refused():
    wrapper = build(custom_keys={'': dict(decay_mult=0.0)})
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    wrapper.optimizer.add_param_group({'params': [frozen], 'weight_decay': 3e-5})  # does not count
    with pytest.raises(ConfigError, match=r'search\.weight_decay_key: .* asks for weight decay 3e-05, .* have \[0\.0'):
        built.check_built(TASK, [0.4], [], built.built_weight_decays(wrapper))


def test_an_optimizer_without_weight_decay_is_refused():
    optimizer = torch.optim.Rprop([torch.nn.Parameter(torch.ones(1))], lr=0.4)
    found = built.built_weight_decays(OptimWrapper(optimizer))
    assert found == []
    with pytest.raises(ConfigError, match=r'search\.weight_decay_key'):
        built.check_built(TASK, [0.4], [], found)


def test_a_trial_that_leaves_weight_decay_alone_needs_no_proof():
    built.check_built(dict(TASK, weight_decay=None), [0.4], [], [])
    built.check_built(dict(lr=0.4, alpha_keys=[]), [0.4], [], [])  # a spec.json from before there was one


@pytest.fixture
def searched(make_search, decaying):
    search = make_search(BLOCK, extra=decaying)
    search.run()
    return search.problem(), search.record()


def test_the_record_holds_it_and_optuna_sees_it_as_a_parameter(searched):
    problem, record = searched
    study = optuna.load_study(study_name='search', storage=f'sqlite:///{problem.work_dir / STUDY_FILE}')
    assert [t.params['weight_decay'] for t in study.trials] == [a.spec.point.weight_decay for a in record.attempts]
    assert all(1e-5 <= c.point.weight_decay <= 5e-4 for c in record.finished())


def test_it_is_in_the_tables_the_report_and_the_winning_config(searched):
    problem, record = searched
    best = search_state(problem, record).best
    console = Console(record=True, width=160)
    print_plan(problem, [], console)
    print_state(problem, search_state(problem, record), console)
    text = console.export_text()
    assert text.count('weight decay') == 3  # two tables and the line of the winner
    assert text.count(f'{best.point.weight_decay:g}') == 2  # in the plan and of the winner
    assert f'{best.point.weight_decay:.7f}' in text  # in a column with one number of decimals
    assert 'alpha' not in text
    files = write_report(problem, record)
    page = files.report.read_text()
    assert re.search('<th[^>]*>weight decay</th>', page)
    assert f'weight decay {best.point.weight_decay:g}: accuracy/top1' in page
    cfg = Config.fromfile(files.best_config)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay) == (
        best.point.lr,
        best.point.weight_decay,
    )


def test_sampled_points_are_a_map_and_are_not_joined_by_lines(searched):
    problem, record = searched
    state = search_state(problem, record)
    points = point_map(problem.settings, state)
    assert (points.other, points.keys) == ('weight decay', [f'random-{i:02d}' for i in range(4)])
    for lr, decay, value in zip(points.lrs, points.others, points.values):
        expected = 90 - 10 * math.log(lr / 1.1) ** 2 - math.log(decay / 8e-5) ** 2  # that of fake_trial.py
        assert value == pytest.approx(expected, abs=1e-5)
    (curve,) = lr_curves(state)
    assert (curve.joined, curve.lrs) == (False, sorted(points.lrs))
    assert alpha_curves(state, 'greater') == []


def test_a_record_from_before_there_was_one_opens_and_goes_on(make_search, small, monkeypatch):
    """Such a record has no weight decay in its rows and no key for it in its settings."""
    search = make_search(small)

    def without(data):
        return {k: v for k, v in data.items() if 'weight_decay' not in k}

    to_dict = Spec.to_dict
    monkeypatch.setattr(study, 'asdict', lambda result: without(asdict(result)))
    monkeypatch.setattr(Spec, 'to_dict', lambda spec: without(to_dict(spec)))
    search.run('fail-r1-k0', search__max_attempts=1)
    monkeypatch.undo()
    record = search.record()
    assert not any('weight_decay' in key for key in record.identity)
    rows = optuna.load_study(study_name='search', storage=f'sqlite:///{search.work_dir / STUDY_FILE}').trials
    assert all('weight_decay' not in t.user_attrs['row']['spec'] for t in rows)
    assert {a.spec.point.weight_decay for a in record.attempts} == {None}
    assert search.run().kind == 'done'
    calm = make_search(small, 'calm')
    calm.run()
    assert search.table() == calm.table()
