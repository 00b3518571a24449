"""Successive halving against a naive loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfixnorm.search.methods.halving import SuccessiveHalvingSearch
from mmfixnorm.search.methods.sampled import RandomSearch
from mmfixnorm.search.planner import Done, Run, Stuck, plan, planned_stages
from mmfixnorm.search.record.state import ledger, search_state
from tests.search.planning import RANGES, closed, play


def naive(search, value_of):
    """The keys of each rung and the winner's key, by sorting plain lists."""
    points = play(RandomSearch(num_trials=search.num_trials, **RANGES), lambda s: s.point.lr)[0]
    alive, rungs = list(range(len(points))), []
    for rung, fraction in enumerate(search.schedule_fractions):
        rungs.append([f'rung{rung}-{i:02d}' for i in alive])
        scored = []
        for i in alive:
            value = value_of(points[i].point.lr, points[i].point.weight_decay, fraction)
            if value is not None:
                scored.append((-value if search.rule == 'greater' else value, points[i].point.lr, i))
        scored.sort()
        if not scored:
            return rungs, None
        keep = search.num_trials // search.reduction_factor ** (rung + 1)
        alive = sorted(i for _, _, i in scored[:keep])
    return rungs, f'rung{rung}-{scored[0][2]:02d}'


searches = st.builds(
    lambda eta, rungs, more, rule: SuccessiveHalvingSearch(
        num_trials=eta ** (rungs - 1) + more,
        reduction_factor=eta,
        schedule_fractions=tuple(np.linspace(0.1, 1, rungs)) if rungs > 1 else (1.0,),
        rule=rule,
        **RANGES,
    ),
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(0, 9),
    st.sampled_from(['greater', 'less']),
)


@settings(max_examples=80, deadline=None)
@given(searches, st.integers(0, 9), st.integers(1, 6))
def test_the_trainings_are_those_of_a_naive_loop(search, seed, levels):
    def value_of(lr, weight_decay, fraction):  # few levels: ties are common; some diverge
        level = int(np.random.default_rng([seed, int(lr * 1e9), int(fraction * 1e3)]).integers(levels + 1))
        return None if level == 0 else float(level)

    asked, _, step = play(search, lambda s: value_of(s.point.lr, s.point.weight_decay, s.fraction))
    rungs, winner = naive(search, value_of)
    assert [s.key for s in asked] == [key for rung in rungs for key in rung]
    assert (step.best.key if isinstance(step, Done) else None) == winner
    assert isinstance(step, (Done, Stuck))
    assert len(asked) <= sum(n for _, n, _ in planned_stages(search))


def test_the_defaults_are_27_points_for_9_t_max():
    search = SuccessiveHalvingSearch(**RANGES)
    assert [n for _, n, _ in planned_stages(search)] == [27, 9, 3]
    assert sum(n * f for _, n, f in planned_stages(search)) == pytest.approx(9)


def test_a_point_that_goes_on_keeps_its_numbers_and_trains_longer():
    asked, _, step = play(SuccessiveHalvingSearch(**RANGES))
    by_key = {s.key: s for s in asked}
    promoted = [s for s in asked if s.stage != 'rung 0']
    assert len(promoted) == 12
    for spec in promoted:
        first = by_key[f'rung0-{spec.key[-2:]}']
        assert (spec.point.lr, spec.point.weight_decay) == (first.point.lr, first.point.weight_decay)
        assert spec.fraction > first.fraction
    assert by_key[step.best.key].fraction == 1


def test_a_rung_waits_for_the_last_training_of_the_one_before():
    search = SuccessiveHalvingSearch(num_trials=4, reduction_factor=2, schedule_fractions=(0.5, 1.0), **RANGES)
    specs = plan(search, []).specs
    history = [closed(s, -s.point.lr) for s in specs]
    assert [s.key for s in plan(search, history[1:]).specs] == ['rung0-00']
    step = plan(search, history[::-1])
    assert isinstance(step, Run)
    assert [s.point.lr for s in sorted(step.specs, key=lambda s: s.point.lr)] == sorted(s.point.lr for s in specs)[:2]


def test_a_shorter_training_never_wins():
    search = SuccessiveHalvingSearch(num_trials=3, schedule_fractions=(0.5, 1.0), **RANGES)
    _, _, step = play(search, lambda s: 1 - s.fraction)
    assert step.best.key.startswith('rung1')


def test_the_ledger_counts_every_training_in_full_and_workers_change_nothing(make_search, decaying):
    block = (
        "type='SuccessiveHalvingSearch', num_trials=8, reduction_factor=2, schedule_fractions=(0.2, 0.5, 1.0), "
        'weight_decay_range=(1e-5, 5e-4)'
    )
    tables = []
    for workers in (1, 3):
        search = make_search(block, f'w{workers}', decaying)
        assert search.run('diverge-high', workers).kind == 'done'
        assert ledger(search.record().attempts)[-1] == pytest.approx(8 * 0.2 + 4 * 0.5 + 2)
        state = search_state(search.problem(), search.record())
        assert state.cost == pytest.approx(state.planned_cost)
        tables.append(search.table())
    assert tables[0] == tables[1]
