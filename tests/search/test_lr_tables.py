"""The replays over the learning rate alone, and the savings of Algorithm 4 (benchmarks/tuners), on made-up lines."""

import json
import math
import re

import pytest

from benchmarks.evidence.lab import Results
from benchmarks.tuners import exact_savings, lr_tables
from mmfixnorm.search.methods.base import FinishedTraining, Point, Spec

LRS = (0.1, 0.4, 1.6)
OF_SEED = {0: (50.0, 60.0, 40.0), 1: (52.0, 64.0, None), 2: (0.0, 0.0, 0.0)}  # the last one is not trained in short
SHORT = 20.0


def line(group, lr, value, **values):
    key = values.pop('key', f'grid-{lr}')
    return dict(group=group, key=key, lr=lr, value=value, alpha=None, fraction=1.0, seed=0, curve=[[1, value]]) | values


def write(folder, name, lines):
    heads = [dict(group=group, kind='search', metric='accuracy/top1') for group in {of['group'] for of in lines}]
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(of) + '\n' for of in [*heads, *lines]))


@pytest.fixture
def results(tmp_path):
    """Three learning rates of two seeds at both lengths, of which the highest diverged once."""
    full = [
        line(f'fixnorm/seed{seed}', lr, value, seed=seed)
        for seed, values in OF_SEED.items()
        for lr, value in zip(LRS, values, strict=True)
    ]
    write(tmp_path, 'rotation-residual', full)
    short = [line(f'residual/fixnorm/x0.2/seed{seed}', lr, SHORT, fraction=0.2) for seed in (0, 1) for lr in LRS]
    write(tmp_path, 'rotation-short', short)
    return Results(tmp_path)


@pytest.fixture
def table(results):
    return lr_tables.read_table(results, 'residual', 'fixnorm')


def test_a_table_has_the_seeds_that_were_trained_at_both_lengths(results, table):
    assert table.surface.lrs == LRS
    assert table.surface.num_seeds == 2
    assert [table.judged(lr) for lr in LRS] == [51.0, 62.0, 40.0]  # the worst of all where one diverged
    assert table.best == 62.0
    assert (table.own_lr, table.told) == (0.1, (0.2, 3.2))
    with pytest.raises(ValueError, match='residual, angle: no seed was trained at both lengths'):
        lr_tables.read_table(results, 'residual', 'angle')


def test_between_two_learning_rates_it_is_even_on_a_log_scale_and_beyond_them_the_end(table):
    assert table.judged(0.2) == pytest.approx((51.0 + 62.0) / 2)
    assert table.judged(0.001) == table.judged(0.1)
    assert table.drawn(Spec('a', 'a', Point(0.001, 1.0), 0.2), 0) == SHORT


def test_a_training_gives_what_one_of_the_seeds_gave(table):
    draws = [table.drawn(Spec('a', 'a', Point(0.4, 1.0), 1.0), shuffle) for shuffle in range(100)]
    assert set(draws) == {60.0, 64.0}
    assert 30 < draws.count(60.0) < 70
    assert table.drawn(Spec('a', 'a', Point(0.4, 1.0), 1.0), 7) == draws[7]
    assert {table.drawn(Spec('a', 'a', Point(1.6, 1.0), 1.0), shuffle) for shuffle in range(20)} == {40.0, None}


def test_every_method_is_played_and_costs_what_it_is_named_for(table):
    summaries = dict(lr_tables.play_task(table, 4, 1))
    for name, summary in summaries.items():
        assert 0 <= summary['mean'] <= summary['worst'] <= 22.0
        if name.startswith(('random', 'BO')):
            assert summary['cost'] == int(name.split(', ')[-1].split()[0])
        if 'Algorithm 4' in name:
            assert summary['cost'] == {'budget 3': 3, 'budget 5': 5, 'whole': 6}[name.split(', ')[1]]
        if 'LRFitSearch' in name:
            number = int(re.search(r'\d+', name.split(', ')[1])[0])
            assert summary['cost'] <= number + (0 if 'budget' in name else 0.5)
    assert summaries['`LRFitSearch`, 3 trainings']['cost'] == 3
    assert summaries['halving, the best 3 of 9 short ones']['cost'] == pytest.approx(9 * 0.2 + 3)
    own = summaries["the config's own"]
    assert (own['cost'], own['mean'], own['worst'], own['worse_than_own']) == (1, 11.0, 11.0, 0)


def test_by_angle_nothing_is_measured_first_and_the_converters_angle_is_the_configs_own(table):
    angle = lr_tables.LRTable('residual', 'angle', table.surface)
    assert (angle.own_lr, angle.told) == (0.02, (0.004, 0.064))
    assert not any('auto' in name or 'ramp' in name for name in lr_tables.entries(angle))


def test_the_regret_is_that_of_the_point_that_was_chosen_not_of_its_lucky_value(table):
    played = lr_tables.Played(
        [Spec(key, 'a', Point(lr, 1.0), 1.0) for key, lr in (('x', 0.4), ('y', 0.1), ('z', 0.4))],
        [FinishedTraining(key, Point(lr, 1.0), v) for key, lr, v in (('x', 0.4, 50), ('y', 0.1, 99), ('z', 0.4, 60))],
        'z',
    )
    assert lr_tables.outcome(table, played, 0.1, None) == (3.1, 0.0, False, 0.0)
    assert lr_tables.outcome(table, played, 0.0, 2) == (2.0, pytest.approx(62.0 - 51.0), False, 0.0)


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
