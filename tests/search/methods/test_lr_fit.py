"""Three trainings and a fit: what is trained, what wins, what it costs at most, what it says."""

import math
import re

import numpy as np
import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.lr_curve import LRCurve
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.base import FinishedTraining
from mmfixnorm.search.methods.lr_fit import LRFitSearch
from mmfixnorm.search.planner import Done, Stuck, plan, planned_stages, replay
from mmfixnorm.search.record.state import search_state, stage_costs
from tests.search.planning import closed, play

RANGE = (0.1, 0.8)
MIDDLE = math.sqrt(0.08)


def search(**values):
    return LRFitSearch(**{'lr_range': RANGE, 'own_lr': 0.1, **values})


def hill(top, *, left=3.0, right=1.5, height=60.0, depth=30.0, noise=0.0, seed=0):
    """Accuracy over log2(lr), with noise that belongs to the training."""

    def value_of(spec):
        off = math.log2(spec.point.lr / top)
        draw = np.random.default_rng([seed, round(1e6 * spec.point.lr)]).normal() * noise
        return height - depth * min(1.0, (off / (left if off < 0 else right)) ** 2) + draw

    return value_of


OPENINGS = {  # the config's own learning rate -> the two first ones
    0.01: [0.01, 0.283],
    0.1: [0.1, 0.283],
    0.25: [0.25, 0.5],
    0.3: [0.3, 0.6],
    0.45: [0.45, 0.225],
    5.0: [5.0, 0.283],
}


@pytest.mark.parametrize(('own', 'lrs'), OPENINGS.items())
def test_the_first_two_are_the_configs_own_and_one_near_the_middle(own, lrs):
    specs = plan(search(own_lr=own), []).specs
    assert [s.point.lr for s in specs] == lrs
    assert {s.fraction for s in specs} == {1.0}


@pytest.mark.parametrize(('own', 'lr'), [(0.01, 0.2), (0.25, 0.25), (0.3, 0.3), (5.0, 0.2)])
def test_a_budget_with_room_for_one_trains_below_the_middle_unless_the_configs_own_is_near(own, lr):
    assert [s.point.lr for s in plan(search(own_lr=own, budget=1.9), []).specs] == [lr]


@pytest.mark.parametrize('top', [0.15, 0.2, 0.4, 0.6])
@pytest.mark.parametrize('own', [0.05, 0.1, 0.3, 0.6])
def test_three_trainings_come_near_the_top_and_not_below_the_configs_own(top, own):
    value_of = hill(top)
    asked, _, step = play(search(own_lr=own), value_of)
    assert len(asked) <= 3
    assert isinstance(step, Done)
    reached = max(value_of(s) for s in asked)
    noise = 0.02 * 60
    assert step.best.value >= reached - noise
    assert step.best.value >= value_of(asked[0]) - noise
    assert 60 - step.best.value < 3 * noise


@pytest.mark.parametrize('number', [3, 5])
@pytest.mark.parametrize('top', [0.12, 0.3, 0.7])
def test_noise_of_a_hundredth_costs_no_more_than_that(number, top):
    lost = []
    for seed in range(10):
        _, _, step = play(search(num_trainings=number), hill(top, noise=0.6, seed=seed))
        lost.append(60 - hill(top)(step.best))
    assert np.mean(lost) < 1.2


def test_nothing_beats_a_config_that_is_at_the_top():
    asked, values, step = play(search(own_lr=0.3), hill(0.3))
    conclusion = replay_of(search(own_lr=0.3), asked, values).conclusion
    assert step.best.key == 'lr-0'
    assert re.search(r"it is the config's own, and the best of the 3 tried with (\d+)% probability", conclusion)
    alone = search(own_lr=0.3, budget=1)
    asked, values, _ = play(alone, hill(0.3))
    assert "it is the config's own, and nothing else was tried" in replay_of(alone, asked, values).conclusion


def test_the_fit_is_no_surer_than_the_noise_of_its_trainings():
    one, four = (LRCurve([0.3] * n, [50.0] * n, 0.3, 'greater', 0.02).at(0.3).sd for n in (1, 4))
    assert one >= 0.02 * 50
    assert 0.01 * 50 <= four < one


LOSSES = {  # the value of a training that went wrong, by its loss
    'diverged': None,
    'exploded': 50.0,
    'exploded further': 1e6,
}


@pytest.mark.parametrize('bad', LOSSES.values(), ids=LOSSES)
def test_a_loss_that_exploded_counts_as_one_that_diverged(bad):
    def value_of(spec):
        return bad if spec.point.lr > 0.5 else 0.5 + 0.1 * math.log2(spec.point.lr / 0.17) ** 2

    settings = search(own_lr=0.1, lr_range=(0.4, 1.6), rule='less')
    asked, _, step = play(settings, value_of)
    assert [s.point.lr for s in asked] == [0.1, 0.8, 0.168]
    assert step.best.key == 'lr-2'


def test_the_conclusion_says_what_the_fit_expects_and_how_sure_it_is():
    asked, values, step = play(search(own_lr=0.02), hill(0.3))
    conclusion = replay_of(search(own_lr=0.02), asked, values).conclusion
    assert f'lr {step.best.point.lr:g} gives ' in conclusion
    assert "probability it beats the config's own, 0.02" in conclusion
    assert '100%' in conclusion


def test_no_curve_makes_a_training_win_that_is_far_below_the_best_value():
    far_off = {'lr-0': -222.0, 'lr-1': -176.0, 'lr-2': -65.0}  # a slope that is no part of the best value
    asked, _, step = play(search(own_lr=0.1), lambda spec: far_off[spec.key])
    assert [s.key for s in asked] == list(far_off)
    assert step.best.key == 'lr-2'


def replay_of(settings, asked, values):
    proposals = [s for s in asked if s.key not in ('lr-0', 'lr-1')]
    return replay(settings, [*map(closed, asked, values), *proposals])


@pytest.mark.parametrize('budget', [1.0, 2.0, 2.5, 3.0, 5.0])
@pytest.mark.parametrize('alphas', [None, (16.0, 4.0, 1.0, 0.5)])
def test_the_budget_is_kept_and_there_is_a_winner(budget, alphas):
    settings = search(budget=budget, alphas=alphas, num_trainings=4)
    asked, _, step = play(settings, hill(0.4))
    assert isinstance(step, Done)
    assert sum(s.fraction for s in asked) <= budget
    assert sum(stage.trainings for stage in planned_stages(settings)) <= budget
    assert len(asked) <= sum(stage.trainings for stage in planned_stages(settings))


def test_another_training_that_promises_less_than_a_quarter_of_the_noise_is_not_started():
    asked, _, _ = play(search(num_trainings=12), hill(0.3))
    assert 3 <= len(asked) < 12


def test_while_all_diverge_the_next_is_a_quarter_of_the_lowest():
    asked, _, step = play(search(num_trainings=4), lambda s: None if s.point.lr > 0.01 else 50.0)
    assert [s.point.lr for s in asked] == [0.1, 0.283, 0.025, 0.00625]
    assert step.best.point.lr == 0.00625


def test_a_search_whose_trainings_all_diverge_has_no_winner():
    asked, _, step = play(search(), lambda s: None)
    assert len(asked) == 3
    assert isinstance(step, Stuck)
    assert 'all 3 trainings of the search diverged' in step.reason


ALPHAS = {'within the noise': (0.5, 1.0), 'beyond the noise': (3.0, 16.0)}


@pytest.mark.parametrize(('more', 'winner'), ALPHAS.values(), ids=ALPHAS)
def test_another_alpha_wins_beyond_the_noise_alone(more, winner):
    peak = hill(0.3)
    settings = search(own_lr=0.3, alphas=(1.0, 4.0, 16.0))
    asked, _, step = play(settings, lambda s: peak(s) + (more if s.point.alpha == 16.0 else 0.0))
    assert [s.point.alpha for s in asked if s.stage == 'alpha'] == [4.0, 16.0]
    assert step.best.point.alpha == winner


def test_a_budget_of_time_that_ends_the_alphas_keeps_the_one_that_has_won():
    settings = search(own_lr=0.3, alphas=(1.0, 4.0, 16.0), budget='4.5h')
    peak, hours = hill(0.3), 3600.0
    asked, values, _ = play(search(own_lr=0.3, alphas=(1.0, 4.0, 16.0)), lambda s: peak(s) + (s.point.alpha == 4.0) * 9)
    trained = [(s, v) for s, v in zip(asked, values) if s.point.alpha != 16.0]
    ended = [FinishedTraining(s.key, s.point, v, cost=1.0, seconds=hours) for s, v in trained]
    replayed = replay(settings, [*ended, *(s for s in asked if s.key == 'lr-2')])
    assert (replayed.finished, replayed.best.key) == (True, 'alpha-1')
    assert 'alpha 4 gives' in replayed.conclusion
    assert 'search.budget' in replayed.notes[-1]


def test_alphas_that_cost_nothing_are_taken_over_whatever_the_budget(make_search):
    block = "type='LRFitSearch', lr_range=(0.2, 3.2), alphas=[8.0, 4.0, 16.0], budget=3"
    search = make_search(block)
    outcome = search.run('bounded')
    state = search_state(search.problem(), search.record())
    free = [row.key for row in state.rows if row.same_as]
    assert (outcome.kind, free, state.cost) == ('done', ['alpha-1', 'alpha-2'], 3.0)


def test_the_costs_of_a_search_count_its_opening(make_search):
    search = make_search("type='LRFitSearch', lr_range=(0.2, 3.2)")
    search.run()
    opening, *_ = stage_costs(search.problem(), search.record().attempts)
    assert (opening.name, opening.trainings, opening.planned, opening.cost) == ('opening', 2, 2, 2.0)


def test_alphas_without_room_in_the_budget_are_named(make_search):
    search = make_search("type='LRFitSearch', lr_range=(0.2, 3.2), alphas=[1.0, 4.0], budget=3")
    search.run()
    (note,) = search_state(search.problem(), search.record()).replayed.notes
    assert '1 of alpha and all after them are not trained' in note


def test_where_the_best_is_at_the_end_and_still_rising_the_remedy_is_named():
    asked, values, _ = play(search(own_lr=0.1), hill(6.0, left=8.0))
    (warning,) = replay_of(search(own_lr=0.1), asked, values).warnings
    assert 'above' in warning
    assert 'raise search.num_trainings or set search.extend=True, in another --work-dir' in warning


def test_where_all_values_are_equal_nothing_was_learnt():
    asked, values, _ = play(search(), lambda spec: 0.0)
    (warning,) = replay_of(search(), asked, values).warnings
    assert 'all 3 trainings have the value 0, so nothing was chosen' in warning


BAD = {
    'num_trainings=1': 'search.num_trainings: must be an integer >= 2, got 1',
    'noise=0': 'search.noise: must be a finite number > 0, got 0',
    'noise=2': 'search.noise: must be a part of the best value below 1, such as 0.02, got 2',
    "noise='low'": "search.noise: must be a finite number > 0, got 'low'",
    'budget=0.5': 'search.budget: must be a finite number >= 1, in lengths of one training, got 0.5',
    "budget='3 days'": "a finite number of T_max > 0, or a time such as '8h' or '30min', got '3 days'",
    'alphas=[]': 'search.alphas: must be a non-empty list of distinct finite numbers > 0',
    "lr_range='automatic'": "search.lr_range: must be a pair (lr_min, lr_max) with 0 < lr_min < lr_max, or 'auto'",
    'num_splits=5': 'search.num_splits: LRFitSearch has no such key',
}


@pytest.mark.parametrize(('block', 'message'), BAD.items())
def test_bad_input_is_refused_with_its_key(block, message):
    with pytest.raises(ConfigError) as err:
        parse_settings(eval(f"dict(type='LRFitSearch', {block})"))
    assert message in str(err.value)


BLOCK = "type='LRFitSearch', lr_range={}, alphas=[4.0, 1.0]"


@pytest.mark.parametrize('lr_range', [RANGE, "'auto'"])
def test_a_whole_search_with_the_driver_killed_after_each_event(make_search, lr_range):
    plain = make_search(BLOCK.format(lr_range), name='plain')
    assert plain.run().kind == 'done'
    killed = make_search(BLOCK.format(lr_range), name='killed')
    assert killed.run_killed().kind == 'done'
    assert killed.table() == plain.table()
    assert len(killed.trainings()) == len(set(killed.trainings()))


def test_the_budget_counts_the_ramp(make_search):
    outcome = make_search("type='LRFitSearch', budget=3").run()
    assert outcome.kind == 'done'
    with pytest.raises(ConfigError, match=r"search\.budget: must be > 1 with search\.lr_range='auto'.*, got 1"):
        make_search("type='LRFitSearch', budget=1", name='none').run()
    short = make_search("type='LRFitSearch', budget=1.02", name='short').run()
    assert short.kind == 'stuck'
    assert 'of 1.02 T_max the ramp has taken 0.04; a training needs 1' in short.message


def test_with_a_budget_of_three_the_ramp_leaves_two_trainings(make_search):
    search = make_search("type='LRFitSearch', budget=3")
    assert [n for _, n, _ in search.problem().planned_costs()] == [1, 2]
    search.run()
    state = search_state(search.problem(), search.record())
    assert [row.key for row in state.rows] == ['ramp', 'lr-0', 'lr-1']
    assert state.cost <= 3
    assert state.replayed.conclusion


def again(settings, value_of):
    """Play a search; return its trainings with new seeds and its replay."""
    asked, values, step = play(settings, value_of)
    return [s for s in asked if s.seed is not None], replay_of(settings, asked, values), step


FLAT = {  # learning rates of a top so flat that the fit cannot decide, and of a steep one
    'open': (hill(0.3, left=30.0, right=30.0), True),
    'decided': (hill(0.3, left=1.0, right=1.0), False),
}


@pytest.mark.parametrize(('value_of', 'is_open'), FLAT.values(), ids=FLAT)
def test_new_seeds_are_trained_where_the_fit_cannot_decide_and_else_the_log_says_why(value_of, is_open):
    settings = search(own_lr=0.15, confirm_seeds=2)
    trained, replayed, step = again(settings, value_of)
    assert [s.key for s in trained] == (['confirm-a-1', 'confirm-a-2', 'confirm-b-1', 'confirm-b-2'] * is_open)
    (note,) = replayed.notes
    assert ('both are trained again' if is_open else 'nothing is trained again') in note
    assert isinstance(step, Done)
    assert planned_stages(settings)[-1].trainings == 4
    if is_open:
        winner, rival = replayed.contenders
        assert winner.point.lr != rival.point.lr
        assert {s.point.lr for s in trained} == {winner.point.lr, rival.point.lr}


def test_the_rival_that_is_better_over_new_seeds_wins():
    settings = search(own_lr=0.15, confirm_seeds=2)
    flat, _ = FLAT['open']
    _, before, _ = again(search(own_lr=0.15), flat)
    chosen = before.best.point.lr
    _, replayed, step = again(settings, lambda s: flat(s) - (5 if s.seed and s.point.lr == chosen else 0))
    assert step.best.point.lr != chosen
    assert any('the runner-up' in warning for warning in replayed.warnings)
    assert replayed.conclusion == ''


def test_a_record_that_had_confirmed_before_the_fit_judged_goes_on_with_its_two_points():
    settings, (steep, _) = search(own_lr=0.15, confirm_seeds=1), FLAT['decided']
    asked, values, step = play(settings, steep)
    history = [*map(closed, asked, values), *(s for s in asked if s.key not in ('lr-0', 'lr-1'))]
    second = sorted(zip(values, asked), key=lambda pair: -pair[0])[1][1]
    begun = FinishedTraining('confirm-b-1', second.point, 10.0)
    (left,) = plan(settings, [*history, begun]).specs
    assert (left.key, left.point) == ('confirm-a-1', step.best.point)
    assert isinstance(plan(settings, [*history, begun, closed(left, 50.0)]), Done)


ALPHA_RIVALS = {1.05: True, 1.15: True, 1.3: False, 3.0: False}  # gain in units of the noise: is it open?


@pytest.mark.parametrize(('gain', 'is_open'), ALPHA_RIVALS.items())
def test_an_alpha_that_has_won_is_compared_with_the_first_one(gain, is_open):
    # 20 % of a normal distribution lie beyond 0.84, and the difference of two values has sqrt(2) of the noise: 1.19.
    peak = hill(0.3)
    settings = search(own_lr=0.3, alphas=(1.0, 4.0), confirm_seeds=1)
    first = max(v for s, v in zip(*play(settings, peak)[:2]) if s.seed is None)
    trained, replayed, _ = again(settings, lambda s: peak(s) + (gain * 0.02 * first if s.point.alpha == 4.0 else 0.0))
    assert replayed.best.point.alpha == 4.0
    assert [(s.key, s.point.alpha) for s in trained] == [('confirm-a-1', 4.0), ('confirm-b-1', 1.0)] * is_open


def test_chances_are_those_of_a_count_over_hypotheses():
    curve = LRCurve([0.1, 0.3, 0.9], [50.0, 60.0, 58.0], 0.3, 'greater', 0.02)
    lrs = [0.1, 0.3, 0.9]
    counted = dict.fromkeys(lrs, 0.0)
    for i, weight in enumerate(curve._weights):
        heights = [curve._heights(lr)[i] for lr in lrs]
        best = [lr for lr, height in zip(lrs, heights) if height == max(heights)]
        for lr in best:
            counted[lr] += weight / len(best)
    assert curve.chances_best(lrs) == pytest.approx(list(counted.values()))
    assert sum(counted.values()) == pytest.approx(1)
    assert curve.chances_best([0.3]) == pytest.approx([1.0])


def test_a_driver_killed_after_each_event_confirms_the_same(make_search):
    block = "type='LRFitSearch', lr_range=(0.7, 1.7), confirm_seeds=2"
    plain = make_search(block, name='plain')
    assert plain.run().kind == 'done'
    killed = make_search(block, name='killed')
    assert killed.run_killed().kind == 'done'
    assert killed.table() == plain.table()
