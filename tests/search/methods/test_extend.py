"""``search.extend``: a search whose best lies at an end of its range continues beyond it, and says so."""

import math

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.planner import Done, Stuck, planned_stages, replay
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.report.remarks import remarks
from tests.search.planning import closed, play

ALGORITHM_4 = dict(type='FixNormSearch', lr_range=(0.2, 3.2), alphas=[1.0, 4.0])
UNIMODAL = dict(type='UnimodalFixNormSearch', lr_range=(0.2, 3.2), alphas=[1.0, 4.0])
LR_FIT = dict(type='LRFitSearch', lr_range=(0.1, 0.8), own_lr=0.1)
BLOCKS = [ALGORITHM_4, UNIMODAL, LR_FIT]


def hill(top):
    """A formula with its best at a learning rate; longer is better, so that no short training wins."""
    return lambda spec: 60 + 20 * spec.fraction - 2 * math.log2(spec.point.lr / top) ** 2


def searched(block, value, **changes):
    settings = parse_settings({**block, **changes})
    asked, values, step = play(settings, value)
    proposed = [s for s in asked if s.key.startswith(('lr-', 'beyond-')) and s.key not in ('lr-0', 'lr-1')]
    return settings, asked, replay(settings, [*map(closed, asked, values), *proposed]), step


@pytest.mark.parametrize(
    ('block', 'top', 'beyond'),
    [  # where the best is, and the learning rates that are tried outside the range
        (ALGORITHM_4, 1.0, []),
        (ALGORITHM_4, 5.0, [6.4, 12.8]),
        (ALGORITHM_4, 1000.0, [6.4, 12.8, 25.6]),
        (ALGORITHM_4, 0.06, [0.1, 0.05, 0.025]),
        (ALGORITHM_4, 0.001, [0.1, 0.05, 0.025]),
        (UNIMODAL, 1.0, []),
        (UNIMODAL, 6.0, [6.4, 12.8]),
        (UNIMODAL, 1000.0, [6.4, 12.8, 25.6]),
        (UNIMODAL, 0.1, [0.1, 0.05]),
        (UNIMODAL, 0.001, [0.1, 0.05, 0.025]),
    ],
)
def test_it_goes_a_factor_of_two_beyond_the_end_while_that_is_better_and_three_times_at_most(block, top, beyond):
    _, asked, replayed, step = searched(block, hill(top), extend=True)
    outside = [s.point.lr for s in asked if not 0.2 <= s.point.lr <= 3.2 and s.stage != 'alpha']
    within_round_1 = {s.point.lr for s in asked if s.stage == 'round 1'}
    assert list(dict.fromkeys(lr for lr in outside if lr not in within_round_1 or lr in beyond)) == beyond
    assert len(replayed.notes) >= len(beyond)
    assert all('search.extend' in note for note in replayed.notes)
    assert all(any(f'so {lr:g} is tried' in note for note in replayed.notes) for lr in beyond)
    assert isinstance(step, Done)


@pytest.mark.parametrize('block', BLOCKS, ids=lambda block: block['type'])
@pytest.mark.parametrize('top', [3e-4, 0.05, 0.3, 6.0, 500.0])
def test_the_winner_is_no_worse_and_the_plan_holds(block, top):
    settings, asked, _, step = searched(block, hill(top), extend=True)
    _, without, _, before = searched(block, hill(top))
    assert step.best.value >= before.best.value - 1e-9
    assert len({s.key for s in asked}) == len(asked) <= len(without) + 2 * 3 * 2
    planned = {stage.name: stage.trainings for stage in planned_stages(settings)}
    stages = [s.stage for s in asked]
    assert sum(s.fraction for s in asked) <= sum(n * f for _, n, f in planned_stages(settings)) + 1e-9
    assert all(stages.count(name) <= planned.get(name, 1) for name in stages)


def test_three_trainings_and_the_ends_beyond_the_range():
    _, asked, replayed, step = searched(LR_FIT, hill(6.0), extend=True)
    beyond = [s for s in asked if s.key.startswith('beyond-')]
    last = [s.point.lr for s in asked if s.key.startswith('lr-')][-1]
    assert [s.key for s in beyond] == [f'beyond-{i + 1}' for i in range(len(beyond))]
    before = [last, *(s.point.lr for s in beyond)]
    assert [s.point.lr for s in beyond] == [float(f'{2 * lr:.3g}') for lr in before[:-1]]
    assert 1 <= len(beyond) <= 3
    assert len(replayed.notes) == len(beyond)
    assert step.best.key.startswith('beyond-')


@pytest.mark.parametrize('budget', [2.0, 3.0, 4.0, 5.0])
def test_the_budget_holds_for_what_is_beyond(budget):
    _, asked, _, _ = searched(LR_FIT, hill(50.0), extend=True, budget=budget)
    assert sum(s.fraction for s in asked) == min(budget, 6)


@pytest.mark.parametrize('block', [ALGORITHM_4, UNIMODAL], ids=lambda block: block['type'])
def test_where_the_learning_rate_makes_no_difference_nothing_is_beyond(block):
    _, asked, replayed, _ = searched(block, lambda s: 50.0, extend=True)
    assert replayed.notes == ()
    assert all(0.2 <= s.point.lr <= 3.2 for s in asked)


def test_a_divergence_beyond_the_end_leaves_the_winner():
    value = hill(1000.0)
    _, asked, replayed, step = searched(ALGORITHM_4, lambda s: None if s.point.lr > 3.2 else value(s), extend=True)
    assert [s.key for s in asked if s.point.lr > 3.2] == ['r0-up1']
    assert step.best.point.lr == 3.2
    assert replayed.warnings == ()  # something was tried beyond it


def test_a_walk_that_finds_nothing_but_divergence_goes_below_the_range():
    value = hill(0.1)
    diverging = lambda s: None if s.point.lr > 0.15 else value(s)  # noqa: E731
    assert isinstance(searched(UNIMODAL, diverging)[-1], Stuck)
    _, _, replayed, step = searched(UNIMODAL, diverging, extend=True)
    assert step.best.point.lr == 0.1
    assert 'short lr: all that was tried diverged, so 0.1 is tried as well' in replayed.notes[0]


def test_after_three_times_the_edge_is_still_warned_of():
    _, _, replayed, _ = searched(ALGORITHM_4, hill(1e4), extend=True)
    assert 'the best learning rate, 25.6, is the highest that was tried' in replayed.warnings[0]


@pytest.mark.parametrize('block', BLOCKS, ids=lambda block: block['type'])
def test_only_a_search_that_extends_is_another_search(block):
    assert 'extend' not in parse_settings(block).identity()
    assert parse_settings({**block, 'extend': True}).identity()['extend'] is True


@pytest.mark.parametrize('value', [1, 'yes', None, (0.1, 1.0)])
@pytest.mark.parametrize('block', BLOCKS, ids=lambda block: block['type'])
def test_bad_values_are_refused_with_the_key(block, value):
    with pytest.raises(ConfigError) as err:
        parse_settings({**block, 'extend': value})
    assert f'search.extend: must be True or False, got {value!r}' in str(err.value)


def test_a_method_without_it_refuses_it():
    with pytest.raises(ConfigError, match='search.extend: GridSearch has no such key'):
        parse_settings(dict(type='GridSearch', lrs=[0.1], extend=True))


LOW = {  # the fake's best is at 1.1
    'FixNormSearch': "type='FixNormSearch', lr_range=(0.05, 0.25), num_splits=2, alphas=[1.0, 4.0], extend=True",
    'UnimodalFixNormSearch': "type='UnimodalFixNormSearch', lr_range=(0.05, 0.2), alphas=[1.0, 4.0], extend=True",
    'LRFitSearch': "type='LRFitSearch', lr_range=(0.02, 0.16), extend=True",
}


@pytest.mark.parametrize('kind', LOW)
def test_a_driver_killed_after_each_event_tries_the_same_beyond_and_the_log_says_it_once(make_search, kind):
    texts = []
    plain = make_search(LOW[kind], name='plain')
    assert plain.run(listener=lambda event: texts.append((event.kind, event.text))).kind == 'done'
    told = [text for event, text in texts if event == 'decided']
    state = search_state(plain.problem(), plain.record())
    assert told == list(state.replayed.notes)
    assert told
    assert set(told) <= set(remarks(plain.problem(), state, plain.record().attempts))  # of the report
    killed = make_search(LOW[kind], name='killed')
    assert killed.run_killed().kind == 'done'
    assert killed.table() == plain.table()
    assert len(killed.trainings()) == len(set(killed.trainings()))
