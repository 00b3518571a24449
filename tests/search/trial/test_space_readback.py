"""What a trial proves of the numbers of ``search.space``: on what was built, or in the config alone, which it says."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.trial import __main__ as trial
from mmfixnorm.search.trial.folder import write_task
from mmfixnorm.search.trial.readback import check_space

HERE = Path(__file__).parents[1]
BETA, MOMENTUM = 'optim_wrapper.optimizer.betas.1', 'optim_wrapper.optimizer.momentum'
UNREAD = 'search.space: cannot be read back from what was built, only from its config: '
CONFIG = dict(
    model=dict(head=dict(alpha=2.0, dropout=0.3), blocks=[dict(rate=0.1)]),
    optim_wrapper=dict(optimizer=dict(betas=(0.9, 0.95), eps=1e-3), clip_grad=dict(max_norm=5)),
    param_scheduler=[dict(end=1)],
)


def made(config=CONFIG, optim_wrapper=None):
    """What a Runner has once everything is built."""
    model = torch.nn.Module()
    model.head = torch.nn.Module()
    model.head.alpha, model.head.dropout = 2.0, torch.nn.Dropout(0.3)
    model.blocks = torch.nn.ModuleList([torch.nn.Module()])
    model.blocks[0].rate = 0.1
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.9, 0.95), eps=1e-3)
    optimizer.param_groups[0].update(eps=0.5, initial_eps=1e-3)  # a scheduler has changed it
    return SimpleNamespace(model=model, optim_wrapper=optim_wrapper or OptimWrapper(optimizer), cfg=Config(config))


@pytest.mark.parametrize(
    ('key', 'value', 'read'),
    [
        ('model.head.alpha', 2.0, True),
        ('model.blocks.0.rate', 0.1, True),
        (BETA, 0.95, True),
        ('optim_wrapper.optimizer.eps', 1e-3, True),
        ('model.head.dropout', 0.3, False),  # a module, not a number
        ('optim_wrapper.clip_grad.max_norm', 5, False),
        ('param_scheduler.0.end', 1, False),
    ],
)
def test_a_number_is_read_back_where_it_stands_on_what_was_built(key, value, read):
    assert check_space(dict(others={key: value}), made()) == ([] if read else [key])
    source = 'what was built has' if read else 'its config has'
    with pytest.raises(ConfigError, match=rf'search\.space\.{key}: the trial asks for 7, but {source} \['):
        check_space(dict(others={key: 7}), made())


def test_a_point_of_time_is_another_one_in_a_shorter_training():
    task = dict(others={'param_scheduler.0.end': 5}, fraction=0.2)
    assert check_space(task, made()) == ['param_scheduler.0.end']


def test_one_of_several_optimizers_has_it():
    parts = {
        name: OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=momentum))
        for name, momentum in (('critic', 0.5), ('generator', 0.9))
    }
    runner = made(optim_wrapper=OptimWrapperDict(**parts))
    assert check_space(dict(others={'optim_wrapper.critic.optimizer.momentum': 0.5}), runner) == []
    with pytest.raises(ConfigError, match=r'what was built has \[0\.5, 0\.9\]'):
        check_space(dict(others={'optim_wrapper.critic.optimizer.momentum': 0.6}), runner)


def test_a_task_from_before_there_was_a_space_needs_no_proof():
    assert check_space({}, SimpleNamespace()) == []


@pytest.fixture
def make_trial(tmp_path, monkeypatch):
    """Write the folder of a real trial that tunes an attribute of the head, an optimizer's option and a scheduler's."""
    monkeypatch.syspath_prepend(HERE)
    (tmp_path / 'config.py').write_text(
        f'_base_ = [{str(HERE / "toy_config.py")!r}]\n'
        'optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))\n'
        "search = dict(_delete_=True, type='RandomSearch', num_trials=1, weight_decay_range=(1e-5, 1e-3),\n"
        f"    space={{'model.head.alpha': (1, 4.0), {MOMENTUM!r}: (0.5, 0.9),\n"
        "           'param_scheduler.0.start_factor': (0.1, 0.5)})\n"
    )

    def make(head='ToyHead', **others):
        problem = load_problem(tmp_path / 'config.py', work_dir=tmp_path, cfg_options={'model.head.type': head})
        numbers = {'model.head.alpha': 2.0, MOMENTUM: 0.6, 'param_scheduler.0.start_factor': 0.25}
        spec = Spec('random-00', 'random', Point.of(dict(lr=0.4, weight_decay=2e-4, **numbers)), 1.0)
        task = problem.trial_task(spec, attempt=1, fingerprint='f')
        task['others'].update(others)
        write_task(problem.trial_dir(spec.key), problem.trial_config(spec), task)
        return problem.trial_dir(spec.key)

    return make


def test_a_real_training_has_its_numbers_and_says_once_which_are_not_read_back(make_trial, capsys, forget_runs):
    folder = make_trial()
    trial.main([str(folder)])
    result = json.loads((folder / 'result.json').read_text())
    assert (result['outcome'], result['built_alphas']) == ('done', [])
    captured = capsys.readouterr()
    (log,) = folder.glob('run/*/*.log')
    assert log.read_text().count(f'{UNREAD}param_scheduler.0.start_factor\n') == 1
    assert (captured.out + captured.err).count(UNREAD) <= 1
    forget_runs()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(head='ToyHeadThatForgets'),
            r'search.space.model.head.alpha: the trial asks for 2, but what was built has [1',
        ),
        ({MOMENTUM: 0.7}, f'search.space.{MOMENTUM}: the trial asks for 0.7, but what was built has [0.6]'),
        (
            {'param_scheduler.0.start_factor': 0.3},
            'search.space.param_scheduler.0.start_factor: the trial asks for 0.3, but its config has [0.25]',
        ),
    ],
)
def test_a_number_that_did_not_take_effect_ends_the_trial(make_trial, options, message):
    folder = make_trial(**options)
    trial.main([str(folder)])
    result = json.loads((folder / 'result.json').read_text())
    assert result['outcome'] == 'broken'
    assert message in result['message']
