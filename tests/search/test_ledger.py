"""What every method costs, counted by hand and by what really ran."""

import pytest

from mmfixnorm.search.methods import METHODS as TABLE
from mmfixnorm.search.record.state import ledger, search_state

RANGES = 'weight_decay_range=(1e-5, 5e-4)'
# A search block -> its trainings as (number, length in T_max); the fake's best is at lr 1.1 and alpha 4.
METHODS = {
    # 5 short and 5 long over lr, 5 alphas: 11 T_max, as the paper says
    "type='FixNormSearch'": [(5, 0.2), (5, 1), (5, 1)],
    # lr 0.4, 0.8, 1.6 and alphas 1, 4 beside 2, then 8 short; lr 0.4, 0.8 at alpha 4 and 0.4 at alpha 2; the
    # best pair, 0.8 and 4, is among them
    "type='UnimodalFixNormSearch'": [(3, 0.2), (3, 0.2), (3, 1)],
    # the config's own lr, the middle of the range and one that the fit proposes; alpha 1 beside 4
    "type='LRFitSearch', lr_range=(0.2, 3.2), alphas=[4.0, 1.0]": [(3, 1), (1, 1)],
    "type='GridSearch', lrs=[0.4, 0.8, 1.6], alphas=[1.0, 4.0], schedule_fraction=0.5": [(6, 0.5)],
    f"type='BayesianSearch', sampler='tpe', num_trials=4, num_startup_trials=3, {RANGES}": [(4, 1)],
    f"type='RandomSearch', num_trials=4, {RANGES}": [(4, 1)],
    f"type='SuccessiveHalvingSearch', num_trials=6, reduction_factor=2, schedule_fractions=(0.2, 0.5, 1.0), {RANGES}": [
        (6, 0.2),
        (3, 0.5),
        (1, 1),
    ],
}


def test_every_method_is_counted():
    assert {kind for kind in TABLE if any(f"type='{kind}'" in block for block in METHODS)} == set(TABLE)


@pytest.mark.parametrize('block', METHODS)
def test_the_ledger_is_the_trainings_that_ran_times_their_lengths(make_search, decaying, block):
    search = make_search(block, extra='' if any(kind in block for kind in ('ixNorm', 'LRFit', 'Grid')) else decaying)
    assert search.run(workers=2).kind == 'done'
    trainings = METHODS[block]
    cost = sum(number * length for number, length in trainings)
    assert len(search.trainings()) == sum(number for number, _ in trainings)  # told by the trials themselves
    assert ledger(search.record().attempts)[-1] == pytest.approx(cost)
    state = search_state(search.problem(), search.record())
    assert state.cost == pytest.approx(cost)
    assert state.planned_cost >= state.cost - 1e-9
    if 'Unimodal' not in block:  # the others plan what they run
        assert state.planned_cost == pytest.approx(cost)


def test_algorithm_4_costs_11_t_max(make_search):
    search = make_search("type='FixNormSearch'")
    search.run(workers=2)
    assert search_state(search.problem(), search.record()).cost == pytest.approx(11)


def test_confirmations_are_counted_too(make_search):
    search = make_search("type='UnimodalFixNormSearch', confirm_seeds=2")
    search.run(workers=2)
    state = search_state(search.problem(), search.record())
    of_search = sum(row.cost for row in state.rows if row.stage != 'confirmation')
    assert (of_search, state.cost - of_search) == (pytest.approx(6 * 0.2 + 3), pytest.approx(4))
