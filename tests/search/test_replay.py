"""The replay of searches on a table (benchmarks/tuners), on a made-up table."""

import json
import math

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from benchmarks.tuners import replay
from benchmarks.tuners.replay_report import Curve, regret_at, summarise
from benchmarks.tuners.surfaces import Surface, read_table
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.methods.sampled import RandomSearch
from tests.search.planning import play

LRS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
ALPHAS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
DECAYS = [1e-5, 1e-4, 1e-3]


def accuracy(lr, other, fraction, top):
    return 90 - 5 * (1 - fraction) - math.log(lr / 0.8) ** 2 - 0.3 * math.log(other / top) ** 2


def write_table(path, seeds=(0, 1), **changes):
    """Separable, without noise: all seeds are the same."""
    runs = [
        dict(kind=kind, lr=lr, fraction=f, seed=seed, value=accuracy(lr, other, f, top), **{kind: other})
        for kind, others, top in (('alpha', ALPHAS, 4.0), ('weight_decay', DECAYS, 1e-4))
        for seed in seeds
        for f in (0.2, 1.0)
        for lr in LRS
        for other in others
    ]
    data = dict(
        name='made-up',
        metric='accuracy/top1',
        rule='greater',
        provenance={},
        lengths=[0.2, 1.0],
        alpha=dict(lrs=LRS, alphas=ALPHAS),
        weight_decay=dict(lrs=LRS, weight_decays=DECAYS),
        runs=runs,
    )
    path.write_text(json.dumps(data | changes))
    return path


@pytest.fixture
def table(tmp_path):
    return read_table(write_table(tmp_path / 'made-up.json'))


def test_without_noise_it_is_the_search_on_the_formula(table):
    settings = FixNormSearch(alphas=tuple(ALPHAS))
    values = [[[accuracy(lr, a, f, 4.0) for a in ALPHAS] for lr in LRS] for f in (0.2, 1.0)]
    between = RegularGridInterpolator((np.log(LRS), np.log(ALPHAS)), np.moveaxis(values, 0, -1))

    def value_of(spec):
        return float(between([math.log(spec.point.lr), math.log(spec.point.alpha)])[0][int(spec.fraction == 1)])

    asked, _, step = play(settings, value_of)
    for shuffle in range(3):
        curve = replay.replay(table, settings, shuffle)
        assert curve.cost[-1] == pytest.approx(sum(s.fraction for s in asked)) == 11
        assert curve.values[-1] == pytest.approx(step.best.value)


def test_every_method_plays_to_its_end_in_both_ranges(table):
    for ranges in (replay.PAPER._replace(weight_decay=(1e-5, 5e-4)), replay.whole(table)):
        for name, settings in replay.methods(table, ranges).items():
            if isinstance(settings, replay.BayesianSearch):
                continue  # slow; TPE is played below
            curve = replay.replay(table, replay.with_seed(settings, 1), 1)
            assert curve.values[-1] <= table.best() + 1e-9, name
            assert curve.cost == sorted(curve.cost)


def test_a_shuffle_is_the_sampler_seed_and_draws_the_table_seed(tmp_path):
    path = write_table(tmp_path / 't.json')
    data = json.loads(path.read_text())
    for run in data['runs']:
        run['value'] += 3 * run['seed']  # the seeds differ
    path.write_text(json.dumps(data))
    table = read_table(path)
    settings = RandomSearch(num_trials=6, weight_decay_range=(1e-5, 1e-3))
    curves = [replay.replay(table, replay.with_seed(settings, k), k) for k in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]
    assert table.surfaces['alpha'].mean(0.8, 4.0, 'greater') == pytest.approx(91.5)  # of both seeds


def test_a_cell_with_a_diverged_corner_answers_with_the_nearest_corner():
    values = np.array([[[10.0, 20.0], [30.0, math.nan]]])
    surface = Surface((1.0, 100.0), (1.0, 100.0), {1.0: values})
    assert surface.answer(2.0, 2.0, 1.0, 0) == 10
    assert surface.answer(90.0, 2.0, 1.0, 0) == 30
    assert surface.answer(90.0, 90.0, 1.0, 0) is None
    assert surface.answer(10.0, 1.0, 1.0, 0) == pytest.approx(20)  # on an edge without it: half-way in the log
    assert surface.mean(100.0, 100.0, 'greater') == 10  # diverged: the worst value
    with pytest.raises(ValueError, match='200 is outside the table'):
        surface.answer(200.0, 1.0, 1.0, 0)


def test_a_seed_that_is_not_whole_is_left_out_and_none_is_an_error(tmp_path):
    path = write_table(tmp_path / 't.json')
    data = json.loads(path.read_text())
    data['runs'] = [r for r in data['runs'] if not (r['kind'] == 'alpha' and r['seed'] == 1 and r['lr'] == 0.4)]
    path.write_text(json.dumps(data))
    assert [s.num_seeds for s in read_table(path).surfaces.values()] == [1, 2]
    data['runs'] = [r for r in data['runs'] if r['seed'] == 1]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match='alpha: no seed with all of its trainings'):
        read_table(path)


def test_a_summary_counts_what_never_comes_near_as_infinite():
    curves = [Curve([1.0, 2.0], [80.0, 89.9]), Curve([1.0, 2.0], [89.9, 88.0]), Curve([1.0, 2.0], [70.0, 71.0]), None]
    found = summarise(curves, 90.0, 'greater', 0.2)
    assert (found.shuffles, found.without_winner, found.cost) == (4, 1, 2.0)
    assert (found.share_within, found.share_winner) == (0.5, 0.25)
    assert found.cost_within == 2.0  # of 1, 2, never, never: the lower middle
    assert found.regret[1] == pytest.approx(2.0)
    at = regret_at(curves, np.array([0.5, 1.5, 9.0]), 90.0, 'greater')
    assert at[0].tolist() == pytest.approx([math.nan, 10.0, 0.1], nan_ok=True)


def test_the_command_writes_its_three_files_and_plays_nothing_twice(tmp_path, monkeypatch):
    path = write_table(tmp_path / 'made-up.json')
    few = {k: v for k, v in replay.methods(read_table(path), replay.PAPER).items() if 'FixNorm' in k or 'Random' in k}
    monkeypatch.setattr(replay, 'methods', lambda table, ranges: few)
    monkeypatch.setattr(replay, '_ranges', lambda path: [replay.PAPER])
    command = [str(path), '--cache', str(tmp_path / 'cache'), '--out', str(tmp_path / 'out'), '--processes', '1']
    for shuffles in ('3', '5'):
        assert replay.main([*command, '--shuffles', shuffles]) == 0
    lines = [len(f.read_text().splitlines()) for f in (tmp_path / 'cache').iterdir()]
    assert lines == [5] * len(few)
    numbers = json.loads((tmp_path / 'out' / 'made-up_paper.json').read_text())
    assert numbers['methods']['FixNormSearch']['cost'] == pytest.approx(11)
    assert '| FixNormSearch | 5 | 11.0 |' in (tmp_path / 'out' / 'made-up_paper.md').read_text()
    assert (tmp_path / 'out' / 'made-up_paper.png').stat().st_size > 5000
