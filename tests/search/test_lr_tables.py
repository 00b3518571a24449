"""The replays over the learning rate alone, and the savings of Algorithm 4 (benchmarks/tuners), on made-up lines."""

import json
import math
import statistics

import numpy as np
import pytest

from benchmarks.evidence.lab import Results
from benchmarks.tuners import exact_savings, lr_tables
from mmfixnorm.search.methods.base import FinishedTraining, Point, Spec

LRS = (0.1, 0.4, 1.6)


def line(group, lr, value, **values):
    key = values.pop('key', f'grid-{lr}')
    return dict(group=group, key=key, lr=lr, value=value, alpha=None, fraction=1.0, seed=0, curve=[[1, value]]) | values


def write(folder, name, lines):
    heads = [dict(group=group, kind='search', metric='accuracy/top1') for group in {of['group'] for of in lines}]
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(of) + '\n' for of in [*heads, *lines]))


@pytest.fixture
def table(tmp_path):
    """A task with three learning rates of two seeds, of which the last one diverged once, and two more lines."""
    scan = [line(f'fixnorm/seed{s}', lr, v + s, seed=s) for s in (0, 1) for lr, v in zip(LRS, (50.0, 60.0, 40.0))]
    scan[-1]['value'] = None
    final = [line('fixnorm/test', 0.4, v, seed=3 + i) for i, v in enumerate((58.0, 60.0, 65.0))]
    write(tmp_path, 'rotation-residual', [*scan, *final])
    write(tmp_path, 'rotation-short', [line('residual/fixnorm/x0.2/seed0', lr, 20.0, fraction=0.2) for lr in LRS[1:]])
    alphas = [line('fixnorm', 0.8, 70.0 + a, alpha=a, key=f'alpha-{a}') for a in (0.5, 0.9, 4.0)]
    write(tmp_path, 'table1-residual', [*alphas, line('fixnorm', 0.3, 1.0, fraction=0.5)])
    write(tmp_path, 'lr-fit-residual', [line('search', 0.1, None, key='ramp')])
    return lr_tables.read_table(Results(tmp_path), 'residual')


def test_a_table_has_the_mean_over_seeds_and_the_alpha_nearest_to_the_configs_own(table):
    assert table.surfaces[1.0].lrs == (0.1, 0.4, 0.8, 1.6)
    assert [table.value(lr) for lr in (0.1, 0.4, 0.8)] == [50.5, 60.5, 70.9]
    assert table.value(1.6) is None  # one of its seeds diverged
    assert table.seeds == {0.1: 2, 0.4: 2, 0.8: 1, 1.6: 2}
    assert table.best == 70.9
    assert table.noise == pytest.approx(statistics.stdev([58.0, 60.0, 65.0]))


def test_between_two_learning_rates_it_is_even_on_a_log_scale_and_beyond_them_the_end(table):
    assert table.value(0.2) == pytest.approx((50.5 + 60.5) / 2)
    assert table.value(0.001) == table.value(0.1)
    assert table.value(0.001, 0.2) == table.value(0.4, 0.2) == 20.0
    assert table.judged(1.6) == 50.5  # the worst of the table


def test_the_noise_belongs_to_a_training_and_has_the_recorded_spread(table):
    spec = Spec('a', 'a', Point(0.4, 1.0), 1.0)
    draws = [table.drawn(spec, shuffle) for shuffle in range(400)]
    assert table.drawn(spec, 7) == draws[7]
    assert np.std(draws) == pytest.approx(table.noise, rel=0.15)
    assert np.mean(draws) == pytest.approx(60.5, abs=0.5)
    assert table.drawn(Spec('b', 'a', Point(1.6, 1.0), 1.0), 0) is None


def test_every_method_is_played_and_costs_what_it_is_named_for(table):
    summaries = dict(lr_tables.play_task(table, 4, 1))
    for name, summary in summaries.items():
        assert 0 <= summary['mean'] <= summary['worst'] <= 20.4
        if name.startswith(('random', 'BO')):
            assert summary['cost'] == int(name.split(', ')[-1].split()[0])
        if 'Algorithm 4' in name:
            assert summary['cost'] == {'budget 3': 3, 'budget 5': 5, 'whole': 6}[name.split(', ')[1]]
        if 'LRFitSearch' in name:
            assert summary['cost'] <= int(name.split(', ')[1].split()[0]) + 0.5
    assert summaries['`LRFitSearch`, 3 trainings']['cost'] == 3


def test_the_regret_is_that_of_the_point_that_was_chosen_not_of_its_lucky_value(table):
    played = lr_tables.Played(
        [Spec(key, 'a', Point(lr, 1.0), 1.0) for key, lr in (('x', 0.4), ('y', 0.1), ('z', 0.8))],
        [FinishedTraining(key, Point(lr, 1.0), v) for key, lr, v in (('x', 0.4, 50), ('y', 0.1, 99), ('z', 0.8, 60))],
        'z',
    )
    assert lr_tables.outcome(table, played, 0.1, None) == (3.1, 0.0, False, 0.0)
    lucky = lr_tables.outcome(table, played, 0.0, 2)
    assert lucky == (2.0, pytest.approx(70.9 - 50.5), False, 0.0)


def search_lines(met):
    """Algorithm 4 as it was recorded: ``g`` meets the alphas up to ``met``, and those above are one training."""

    def value(lr, alpha, fraction):
        return 50 + 20 * fraction - (lr - 0.8) ** 2 + 0.1 * min(alpha, 2 * met)

    lines = [(f'r0-k{k}', lr, 0.5, 0.2) for k, lr in enumerate((0.8, 1.4, 2.0, 2.6, 3.2))]
    lines += [(f'r1-k{k}', lr, 0.5, 1.0) for k, lr in enumerate((0.2, 0.35, 0.5, 0.65, 0.8))]
    lines += [(f'alpha-{i}', 0.8, alpha, 1.0) for i, alpha in enumerate((1.0, 2.0, 4.0, 8.0, 16.0), start=1)]
    return [
        line('fixnorm', lr, value(lr, alpha, fraction), alpha=alpha, fraction=fraction, key=key)
        for key, lr, alpha, fraction in lines
    ]


# Where g meets the alphas up to this one, those from its double on are one training: of the six, so many are trained.
@pytest.mark.parametrize(('met', 'of_alpha'), [(0.25, 0), (0.5, 1), (1.0, 2), (4.0, 4), (8.0, 5), (16.0, 5)])
def test_only_what_differs_is_trained_and_winner_and_values_are_the_same(met, of_alpha):
    lines = search_lines(met)
    whole = exact_savings.replay(lines, (0.2, 3.2), reuse=False)
    saving = exact_savings.replay(lines, (0.2, 3.2), reuse=True)
    assert whole.cost == 11
    assert saving.cost == 6 + of_alpha
    assert (saving.best, saving.values) == (whole.best, whole.values)
    assert sum(key.startswith('alpha') for key in saving.trained) == of_alpha


def test_a_training_that_was_not_recorded_is_an_error():
    with pytest.raises(ValueError, match='alpha-5.* was not recorded'):
        exact_savings.replay(search_lines(1.0)[:-1], (0.2, 3.2), reuse=True)
    with pytest.raises(ValueError, match='r0-k0.* was not recorded; the line of this key'):
        exact_savings.replay(search_lines(1.0), (0.1, 3.2), reuse=True)


def test_the_recorded_searches_choose_what_they_chose():
    results = Results()
    for (experiment, group, _), (_, whole, saving) in zip(
        exact_savings.SEARCHES, exact_savings.replay_all(results), strict=True
    ):
        head = results.head(experiment, group)
        assert [saving.best.point.lr, saving.best.point.alpha] == head['winner'][:2]
        assert math.isclose(saving.best.value, head['value'])
        assert (saving.best, saving.values) == (whole.best, whole.values)
        assert saving.cost < whole.cost == head['cost']
