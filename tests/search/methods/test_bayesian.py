"""Bayesian optimisation: what it finds, what it is told, and that a proposal is made once."""

import math
import multiprocessing
import os
import random
import signal

import numpy as np
import optuna
import pytest
from rich.console import Console

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import bayesian
from mmfixnorm.search.methods.base import Spec, best_of, numbered
from mmfixnorm.search.methods.bayesian import METHOD, BayesianSearch
from mmfixnorm.search.methods.sampled import RandomSearch, random_point
from mmfixnorm.search.planner import Done, Propose, Stuck, plan, planned_stages, replay
from mmfixnorm.search.record.state import ledger
from mmfixnorm.search.terminal.console import print_plan
from tests.search.planning import LR, RANGES, WEIGHT_DECAY, closed, hill, play

FORK = multiprocessing.get_context('fork')
TPE = dict(sampler='tpe', num_trials=10, num_startup_trials=3, **RANGES)
BLOCK = (
    "type='BayesianSearch', sampler='tpe', num_trials=6, num_startup_trials=2, batch_size=2, "
    'weight_decay_range=(1e-5, 5e-4)'
)


def regrets(make, seeds=20):
    return np.array([-play(make(seed))[2].best.value for seed in range(seeds)])


def near_the_top(specs):
    """Part of the points within a factor of 1.5 of the best lr and of 2 of the best weight decay."""
    near = [
        abs(math.log(s.point.lr / LR)) < math.log(1.5)
        and abs(math.log(s.point.weight_decay / WEIGHT_DECAY)) < math.log(2)
        for s in specs
    ]
    return sum(near) / len(near)


def test_tpe_goes_where_the_optimum_is_and_random_search_does_not():
    guided, drawn = [], []
    for seed in range(20):
        budget = dict(num_trials=30, sampler_seed=seed, **RANGES)
        guided += play(BayesianSearch(sampler='tpe', **budget))[0][15:]
        drawn += play(RandomSearch(**budget))[0][15:]
    assert near_the_top(guided) > 2 * near_the_top(drawn)


@pytest.mark.slow
def test_the_gaussian_process_is_closer_to_the_optimum_than_random_search_at_equal_cost():
    budget = dict(num_trials=8, **RANGES)
    guided = regrets(lambda seed: BayesianSearch(num_startup_trials=4, sampler_seed=seed, **budget))
    drawn = regrets(lambda seed: RandomSearch(sampler_seed=seed, **budget))
    assert (guided <= drawn).sum() >= 14
    assert np.median(guided) < np.median(drawn) / 2


@pytest.mark.parametrize('sampler', ['gp', 'tpe'])
@pytest.mark.parametrize('rule', ['greater', 'less'])
def test_both_samplers_and_rules_stay_in_the_ranges_and_end(sampler, rule):
    settings = BayesianSearch(
        sampler=sampler, rule=rule, num_trials=5, num_startup_trials=2, batch_size=2, sampler_seed=1, **RANGES
    )
    sign = 1 if rule == 'greater' else -1
    asked, values, step = play(settings, lambda s: sign * hill(s))
    assert isinstance(step, Done)
    assert step.best.value == sign * max(sign * v for v in values)
    assert [s.key for s in asked] == [f'bo-{i:02d}' for i in range(5)]
    assert all(0.2 <= s.point.lr <= 3.2 and 1e-5 <= s.point.weight_decay <= 5e-4 for s in asked)
    assert len({(s.point.lr, s.point.weight_decay) for s in asked}) == 5  # also inside a batch
    assert sum(n * f for _, n, f in planned_stages(settings)) == 5


def test_the_first_points_are_those_of_random_search():
    guided = play(BayesianSearch(batch_size=4, **TPE))[0]
    drawn = play(RandomSearch(num_trials=10, **RANGES))[0]
    numbers = [[(s.point.lr, s.point.weight_decay) for s in specs] for specs in (guided, drawn)]
    assert numbers[0][:4] == numbers[1][:4]  # the first batch, though three would be enough
    assert numbers[0][4:] != numbers[1][4:]


def test_a_proposal_depends_on_settings_and_results_and_not_on_their_order():
    settings = BayesianSearch(**TPE)
    asked, values, _ = play(settings)
    done = [closed(s, v) for s, v in zip(asked, values)][:6]
    first = bayesian.propose(settings, done, ['bo-06'])
    for seed in range(3):
        random.Random(seed).shuffle(done)
        assert bayesian.propose(settings, done, ['bo-06']) == first
    other = BayesianSearch(**{**TPE, 'sampler_seed': 1})
    assert bayesian.propose(other, done, ['bo-06']) != first


def test_the_plan_asks_for_a_batch_only_when_the_one_before_is_closed():
    settings = BayesianSearch(batch_size=2, **TPE)
    assert plan(settings, []) == Propose(('bo-00', 'bo-01'))
    batch = bayesian.propose(settings, [], ['bo-00', 'bo-01'])
    assert plan(settings, batch).specs == tuple(batch)
    assert plan(settings, [*batch, closed(batch[0], 1.0)]).specs == (batch[1],)
    history = [*batch, *(closed(s, hill(s)) for s in batch)]
    assert plan(settings, history[::-1]) == Propose(('bo-02', 'bo-03'))
    assert replay(settings, history).best.value == max(map(hill, batch))


def test_a_closed_training_that_was_never_proposed_is_refused():
    settings = BayesianSearch(**TPE)
    (spec,) = bayesian.propose(settings, [], ['bo-00'])
    with pytest.raises(ValueError, match='no plan asked for'):
        plan(settings, [closed(spec, 1.0)])


@pytest.mark.parametrize(('rule', 'worst'), [('greater', -7.0), ('less', 3.0)])
def test_the_sampler_is_told_a_finite_worst_value_for_a_diverged_training(monkeypatch, rule, worst):
    settings = BayesianSearch(rule=rule, **TPE)
    asked = play(settings)[0]
    done = [closed(s, v) for s, v in zip(asked, [None, 3.0, -7.0, None, 1.0])]
    told = []
    real = optuna.samplers.TPESampler.sample_relative

    def spy(self, study, trial, space):
        told.extend(t.value for t in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
        return real(self, study, trial, space)

    monkeypatch.setattr(optuna.samplers.TPESampler, 'sample_relative', spy)
    bayesian.propose(settings, done, ['bo-05'])
    assert told == [worst, 3.0, -7.0, worst, 1.0]


def test_before_any_value_a_diverged_training_counts_as_0():
    asked, _, step = play(BayesianSearch(**TPE), lambda s: None)
    assert isinstance(step, Stuck)
    assert len(asked) == 10
    assert bayesian.observed_values('greater', [closed(s, None) for s in asked]) == [0.0] * 10


def test_proposals_keep_away_from_where_training_diverges():
    def cliff(spec):
        return None if spec.point.lr > 1.0 else hill(spec)

    share = [0.0, 0.0]
    for seed in range(10):
        budget = dict(num_trials=24, sampler_seed=seed, **RANGES)
        for i, settings in enumerate((BayesianSearch(sampler='tpe', **budget), RandomSearch(**budget))):
            share[i] += sum(s.point.lr > 1.0 for s in play(settings, cliff)[0][8:])
    assert share[0] < share[1] / 2


@pytest.mark.parametrize('mode', ['plain', 'diverge-high'])
def test_any_number_of_workers_gives_the_same_table(make_search, decaying, mode):
    tables = []
    for workers in (1, 2):
        search = make_search(BLOCK, f'w{workers}', decaying)
        assert search.run(mode, workers).kind == 'done'
        assert ledger(search.record().attempts)[-1] == 6
        tables.append(search.table())
    assert tables[0] == tables[1]
    assert [row[0] for row in tables[0]] == [f'bo-{i:02d}' for i in range(6)]


def printed_plan(search):
    console = Console(record=True, width=160)
    history = search.record().history() if (search.work_dir / 'study.db').exists() else []
    print_plan(search.problem(), history, console)
    return console.export_text()


def test_the_printed_plan_says_that_points_are_not_known_yet(make_search, decaying):
    text = printed_plan(make_search(BLOCK, 'planned', decaying))
    assert 'next: bo-00, bo-01; proposed when they start' in text
    assert 'in all: 6 trainings, 6 T_max' in text


def another_library(settings, closed, keys):
    """A sampler of other versions: it proposes other points."""
    return REAL_PROPOSE(BayesianSearch(**{**TPE, 'num_trials': 6, 'batch_size': 2, 'sampler_seed': 99}), closed, keys)


REAL_PROPOSE = bayesian.propose


def kill_self_at(number):
    heard = []

    def listen(event):
        heard.append(event)
        if len(heard) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return listen


def killed_run(search, workers, number):
    process = FORK.Process(target=search.run, args=('brief', workers, kill_self_at(number)))
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.slow
# Steps that have no factor in common with the events of a training, so each kind of event is met.
@pytest.mark.parametrize(('workers', 'step'), [(1, 3), (2, 5)])
def test_kill_9_of_the_driver_at_any_event_changes_no_point(make_search, decaying, workers, step):
    block = BLOCK.replace('num_trials=6', 'num_trials=4')  # a random batch, and one proposed from it
    calm = make_search(block, 'calm', decaying)
    calm.run()
    events = 0
    for number in range(1, 100, step):
        search = make_search(block, f'killed-{number}', decaying)
        code = killed_run(search, workers, number)
        search.run('brief', workers)
        assert search.table() == calm.table(), f'killed at event {number}'
        assert sorted(search.trainings()) == sorted(calm.trainings()), f'killed at event {number}'
        if code == 0:
            break
        assert code == -signal.SIGKILL
        events = number
    assert events >= 4 * 4  # submitting, submitted, ended and recorded of four trainings


def test_a_batch_once_proposed_stays_as_it_is_with_other_versions_of_the_libraries(make_search, decaying, monkeypatch):
    search = make_search(BLOCK, 'killed', decaying)
    assert killed_run(search, 1, 4) == -signal.SIGKILL  # opened, two proposed, submitting
    proposed = search.record().proposed
    assert [s.key for s in proposed] == ['bo-00', 'bo-01']
    text = printed_plan(search)
    assert all(f'{s.key} │ {s.point.lr:g} │ {s.point.weight_decay:g} │' in ' '.join(text.split()) for s in proposed)
    monkeypatch.setattr('mmfixnorm.search.driver.propose', another_library)
    assert search.run().kind == 'done'
    record = search.record()
    assert record.proposed[:2] == proposed
    specs = {a.spec.key: a.spec for a in record.attempts}
    assert [specs[s.key] for s in record.proposed] == record.proposed
    assert len(search.trainings()) == len(set(search.trainings())) == 6


def test_results_of_other_points_are_not_taken_over_when_the_record_is_lost(make_search, decaying, monkeypatch):
    search = make_search(BLOCK, 'lost', decaying)
    search.run()
    before = search.table()
    (search.work_dir / 'study.db').rename(search.work_dir / 'kept')
    monkeypatch.setattr('mmfixnorm.search.driver.propose', another_library)
    with pytest.raises(ConfigError, match=r'bo-00/spec\.json: was trained with lr .*, expected lr .*put back the rec'):
        search.run()
    (search.work_dir / 'kept').rename(search.work_dir / 'study.db')
    assert search.table() == before


def test_a_sampler_whose_package_is_missing_is_refused_before_anything_runs(make_search, decaying, monkeypatch):
    search = make_search(BLOCK.replace("'tpe'", "'gp'"), 'gp', decaying)
    monkeypatch.setattr(bayesian.importlib.util, 'find_spec', lambda name: None if name == 'scipy' else object())
    with pytest.raises(ConfigError, match=r"search\.sampler: 'gp' needs scipy: pip install scipy"):
        search.problem()


class Counting(dict):
    """Finished trainings that count how often one is read."""

    reads = 0

    def __getitem__(self, key):
        self.reads += 1
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.reads += 1
        return super().get(key, default)


def reads_of_a_replay(num_trials):
    settings = BayesianSearch(**RANGES, num_trials=num_trials)
    keys = numbered('bo', num_trials)
    specs = {k: Spec(k, f'batch {i}', random_point(settings, i), 1.0) for i, k in enumerate(keys)}
    finished = Counting({k: closed(s, hill(s)) for k, s in specs.items()})
    replayed = METHOD.replay(settings, finished, specs)
    assert replayed.best == best_of('greater', dict(finished).values())
    return finished.reads


def test_following_a_search_takes_time_in_proportion_to_its_trials():
    # It is followed once for each trial, so more than that makes a search cubic.
    assert reads_of_a_replay(200) == 4 * reads_of_a_replay(50)
