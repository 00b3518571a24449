"""``search.budget`` and ``--budget``: what would exceed it is not started, and there is a winner all the same."""

import math

import pytest

from mmfixnorm.cli.search import main
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.driver import run_search
from mmfixnorm.search.executors.base import UnavailableError
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.base import FinishedTraining
from mmfixnorm.search.planner import Done, Propose, Run, Stuck, Wait, plan, propose, replay
from mmfixnorm.search.record.state import search_state

RANGE = dict(lr_range=(0.2, 3.2))
BLOCKS = {
    'FixNormSearch': RANGE,
    'UnimodalFixNormSearch': RANGE,
    'LRFitSearch': dict(lr_range=(0.1, 0.8), own_lr=0.1),
    'GridSearch': dict(lrs=[0.2, 0.4, 0.8, 1.6], alphas=[1.0, 4.0]),
    'RandomSearch': dict(**RANGE, alpha_range=(0.5, 8.0), num_trials=8),
    'BayesianSearch': dict(**RANGE, alpha_range=(0.5, 8.0), num_trials=12, sampler='tpe'),
    'SuccessiveHalvingSearch': dict(**RANGE, alpha_range=(0.5, 8.0)),
}


def value_of(spec):
    return 50 + 20 * spec.fraction - math.log(spec.point.lr / 0.5) ** 2


def hours_of(spec):
    """A training takes an hour for each T_max, or up to a half more at high learning rates."""
    return spec.fraction * (1 + min(0.5, spec.point.lr / 6))


def play(settings, *, first=()):
    """Run a search one training at a time; return its trainings, its history and the last step."""
    history, asked = [*first], []
    while True:
        step = plan(settings, history)
        if isinstance(step, Propose):
            history += propose(settings, [h for h in history if isinstance(h, FinishedTraining)], step.keys)
        elif isinstance(step, Run):
            spec = step.specs[0]
            asked.append(spec)
            seconds = 3600 * hours_of(spec)
            history.append(FinishedTraining(spec.key, spec.point, value_of(spec), seconds=seconds))
        else:
            return asked, history, step


@pytest.mark.parametrize('budget', [1.0, 2.4, 4, 5.5, '1h', '2.5h', '330min'])
@pytest.mark.parametrize('kind', BLOCKS)
def test_no_training_is_started_that_would_exceed_it_and_the_best_of_the_longest_wins(kind, budget):
    settings = parse_settings(dict(type=kind, budget=budget, **BLOCKS[kind]))
    every, *_ = play(parse_settings(dict(type=kind, **BLOCKS[kind])))
    asked, history, step = play(settings)
    cost = sum(s.fraction for s in asked)
    spent, limit = cost, budget
    if isinstance(budget, str):
        limit = float(budget.rstrip('hmin')) * (1 if budget.endswith('h') else 1 / 60)
        for i, spec in enumerate(asked):  # by the speed of those before it
            hours = sum(map(hours_of, asked[:i]))
            rate = hours / sum(s.fraction for s in asked[:i]) if i else 0.0
            assert hours + rate * spec.fraction <= limit
        spent = sum(map(hours_of, asked))
    else:
        assert cost <= limit + 1e-9
    assert isinstance(step, Done)
    longest = max(s.fraction for s in asked)
    assert step.best.value == max(value_of(s) for s in asked if s.fraction == longest)
    if len(asked) < len(every) and kind != 'LRFitSearch':  # nothing that fits is left out
        assert spent + every[len(asked)].fraction * spent / cost > limit
        assert 'search.budget' in replay(settings, history).notes[-1]


@pytest.mark.parametrize('kind', sorted({*BLOCKS} - {'LRFitSearch'}))
def test_with_more_of_it_the_same_search_continues(kind):
    block = dict(type=kind, **BLOCKS[kind])
    whole, _, end = play(parse_settings(block))
    asked, history, _ = play(parse_settings(dict(block, budget=2.0)))
    more, history, _ = play(parse_settings(dict(block, budget='5h')), first=history)
    rest, _, last = play(parse_settings(block), first=history)
    assert [*asked, *more, *rest] == whole
    assert last == end
    assert {parse_settings(dict(block, budget=b)).identity().get('budget') for b in (None, 2.0, '5h')} == {None}


def test_what_runs_counts_and_is_waited_for():
    settings = parse_settings(dict(type='GridSearch', lrs=[0.1, 0.2, 0.4, 0.8], budget=2))
    specs = plan(settings, []).specs
    assert [s.key for s in specs] == ['grid-00', 'grid-01']
    assert plan(settings, [], {'grid-00'}).specs == specs[1:]
    assert plan(settings, [], {'grid-00', 'grid-01'}) == Wait(('grid-00', 'grid-01'))


def test_a_training_that_runs_when_the_time_is_known_is_not_left_alone():
    settings = parse_settings(dict(type='GridSearch', lrs=[0.1, 0.2, 0.4], budget='1.5h'))
    first = plan(settings, []).specs[0]
    history = [FinishedTraining(first.key, first.point, 1.0, seconds=3600)]
    assert plan(settings, history, {'grid-01'}) == Wait(('grid-01',))
    step = plan(settings, history)
    assert isinstance(step, Done)
    assert [s.key for s in step.left] == ['grid-01', 'grid-02']


@pytest.mark.parametrize('budget', [0.5, 0.1])
def test_a_budget_too_small_for_one_training_ends_without_a_winner(budget):
    _, _, step = play(parse_settings(dict(type='GridSearch', lrs=[0.1, 0.2], budget=budget)))
    assert isinstance(step, Stuck)
    assert f'search.budget: of {budget} T_max the trainings have taken 0 T_max' in step.reason
    assert 'grid-00 needs 1 T_max' in step.reason


def test_the_confirmation_is_within_it():
    settings = parse_settings(dict(type='GridSearch', lrs=[0.4, 0.8], budget=5, confirm_seeds=3))
    asked, history, step = play(settings)
    assert [s.key for s in asked] == ['grid-00', 'grid-01', 'confirm-a-1', 'confirm-a-2', 'confirm-a-3']
    assert step.best.key == 'grid-00'
    assert '3 of confirmation' in replay(settings, history).notes[-1]


BAD = [0, -1, math.nan, math.inf, True, '', '8', '8 days', '0h', '-1h', 'h', [3]]


@pytest.mark.parametrize('value', BAD, ids=repr)
@pytest.mark.parametrize('kind', ['FixNormSearch', 'LRFitSearch'])
def test_bad_values_are_refused_with_the_key(kind, value):
    with pytest.raises(ConfigError) as err:
        parse_settings(dict(type=kind, budget=value))
    rule = "search.budget: must be a finite number of T_max > 0, or a time such as '8h' or '30min', got "
    assert str(err.value) == f'{rule}{value!r}'


def test_what_is_the_same_training_costs_nothing(make_search):
    block = 'lr_range=(0.2, 3.2), alphas=[4.0, 8.0, 16.0], budget=6'
    search = make_search(block)
    assert search.run('bounded').kind == 'done'  # the scale is 3: all alphas are one training
    state = search_state(search.problem(), search.record())
    assert len(state.rows) == 12
    assert state.cost == pytest.approx(6)
    assert state.replayed.notes == ()


@pytest.mark.parametrize('budget', ['1.5', "'1.5h'"])
def test_a_driver_killed_after_each_event_ends_as_without(make_search, small, budget):
    plain = make_search(f'{small}, budget={budget}', name='plain')
    told = []
    assert plain.run('timed', listener=lambda event: told.append(event.text)).kind == 'done'
    state = search_state(plain.problem(), plain.record())
    assert [row.key for row in state.rows] == ['r0-k0', 'r0-k1', 'r1-k0']
    assert told.count(state.replayed.notes[0]) == 1
    killed = make_search(f'{small}, budget={budget}', name='killed')
    assert killed.run_killed('timed').kind == 'done'
    assert killed.table() == plain.table()


def test_what_a_killed_driver_had_started_is_waited_for_though_it_is_over(make_search, small):
    search = make_search(f"{small}, budget='0.3h'")

    class Killed(BaseException):
        pass

    def listener(event):
        if event.kind == 'recorded':
            raise Killed

    with pytest.raises(Killed):  # r0-k1 runs; its 0.2 hours are too much, as is known now
        search.run('timed', workers=2, listener=listener)
    assert replay(search.problem().settings, search.record().history()).finished
    assert not search_state(search.problem(), search.record()).replayed.finished  # neither `status` nor the report
    assert search.run('timed', workers=2).kind == 'done'
    assert search_state(search.problem(), search.record()).replayed.finished
    assert [row.key for row in search_state(search.problem(), search.record()).rows] == ['r0-k0', 'r0-k1']


@pytest.fixture
def cli(fake_trial, capsys, tmp_path):
    def run(*argv, mode='timed'):
        code = main([*map(str, argv), '--work-dir', str(tmp_path / 'w')], trial_command=fake_trial(mode))
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize('action', ['plan', 'run'])
@pytest.mark.parametrize('value', ['0', 'nan', 'soon', '8d', ''])
def test_a_bad_budget_ends_with_status_2(cli, write_config, tmp_path, action, value):
    code, _, err = cli(action, write_config(), '--budget', value)
    assert (code, '--budget: search.budget: must be a finite number of T_max > 0' in err) == (2, True)
    assert not (tmp_path / 'w').exists()


def test_a_plan_names_it(cli, write_config):
    code, out, _ = cli('plan', write_config(), '--budget', '8h')
    assert code == 0
    assert 'budget: 8h; what would exceed it is not started' in out


def test_a_run_with_more_continues_one_with_less(cli, write_config, small):
    config = write_config(small)
    code, out, _ = cli('run', config, '--budget', '1.5')
    assert code == 0
    assert 'search.budget: of 1.5 T_max the trainings have taken 1.4 T_max' in out
    assert 'recorded' not in cli('run', config, '--budget', '2.0')[1]
    code, out, _ = cli('run', config, '--budget', '2.5h')
    assert code == 0
    assert 'r1-k1' in out
    assert 'r1-k0 started' not in out
    assert cli('run', config)[0] == 0


def test_what_does_not_answer_at_the_end_of_a_search_is_told_once(make_search, small, fake_trial):
    class Away(LocalExecutor):
        asked = 0

        def refresh(self):
            self.asked += 1
            if self.asked < 5:
                raise UnavailableError('squeue: timed out')

    search, told = make_search(f'{small}, budget=1.5'), []
    assert search.run().kind == 'done'
    executor = Away(1, fake_trial())
    assert run_search(search.problem(), executor=executor, listener=told.append, poll_s=0.01).kind == 'done'
    assert executor.asked == 5
    assert [e.text for e in told if e.kind == 'warning'] == ['waiting for what runs the trials: squeue: timed out']


def test_a_budget_in_t_max_is_that_of_a_method_that_plans_by_one(cli, write_config, tmp_path):
    config = write_config("type='LRFitSearch', lr_range=(0.2, 3.2)")
    assert cli('run', config, '--budget', '2', mode='plain')[0] == 0
    code, _, err = cli('run', config, '--budget', '3', mode='plain')
    assert (code, 'search.budget: was 2.0, is 3.0' in err) == (2, True)
    code, _, err = cli('plan', config, '--budget', '0.5')
    assert (code, 'search.budget: must be a finite number >= 1, in lengths of one training' in err) == (2, True)
    code, _, err = cli('run', write_config("type='LRFitSearch', lr_range='auto'"), '--budget', '1')
    assert (code, "--budget: search.budget: must be > 1 with search.lr_range='auto'" in err) == (2, True)
