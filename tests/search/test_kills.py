"""Kills of the driver, of trials and of the terminal at random, by the benchmarks' own code."""

import json
import runpy

import pytest

SEED = 5


@pytest.fixture(scope='module')
def benchmark(pytestconfig):
    return runpy.run_path(str(pytestconfig.rootpath / 'benchmarks' / 'driver_kills.py'))


def check(counted):
    assert (counted['lost'], counted['doubled']) == (0, 0), counted  # the seed is in there
    assert set(counted['kills']) == {'driver', 'trial'}


def test_random_kills_lose_nothing_and_double_nothing(benchmark, tmp_path):
    check(benchmark['kill_searches'](8, SEED, tmp_path))


@pytest.mark.slow
def test_forty_random_kills_lose_nothing_and_double_nothing(benchmark, tmp_path):
    check(benchmark['kill_searches'](40, SEED + 1, tmp_path))


def test_faults_are_counted(benchmark, make_search):
    search = make_search()
    search.run()
    expected = {a.spec.key: a.result.value for a in search.record().attempts}
    assert benchmark['count_faults'](search, expected) == (0, 0)
    with open(search.work_dir / 'ledger.txt', 'a') as ledger:
        ledger.write('r0-k1\n')
    assert benchmark['count_faults'](search, {**expected, 'r0-k2': 1.0, 'r9-k9': 1.0}) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'key'), [('fake', 'r0-k0'), ('fit', 'lr-0')])
def test_kills_at_a_terminal_and_an_edit_mix_nothing(pytestconfig, tmp_path, kind, key):
    benchmark = runpy.run_path(str(pytestconfig.rootpath / 'benchmarks' / 'search_kills.py'))
    disturbed = benchmark['Round'](0, SEED, tmp_path, kills=2, kind=kind)
    found = disturbed.run()
    assert found['faults'] == []
    assert found['edited'] == 1
    path = disturbed.work_dir / f'trials/{key}/stamps.txt'
    owner = path.read_text().split()[0]
    with open(path, 'a') as stamps:  # and it would be seen
        stamps.write(f'another {key} 1 1 step\n')
    disturbed.check()
    assert disturbed.faults == [f"work/{key}: written by trials of ['another'], it belongs to {owner}"]


@pytest.mark.slow
def test_all_kills_can_disturb_one_search_of_a_config_of_ones_own(pytestconfig, tmp_path):
    benchmark = runpy.run_path(str(pytestconfig.rootpath / 'benchmarks' / 'search_kills.py'))
    config = tmp_path / 'own.py'
    base = str(pytestconfig.rootpath / 'tests/search/toy_config.py')
    config.write_text(f'_base_ = [{base!r}]\nsearch = dict(lrs=[0.1, 0.2])\n')
    out = tmp_path / 'kills.jsonl'
    assert benchmark['main'](['--config', str(config), '--kills', '2', '--out', str(out)]) == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    assert (len(line['kills']), line['edited'], line['trainings'], line['faults']) == (2, 0, 2, [])
