"""Kill -9 of the driver and of trials at random, by the benchmark's own code."""

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
def test_a_hundred_random_kills_lose_nothing_and_double_nothing(benchmark, tmp_path):
    check(benchmark['kill_searches'](100, SEED + 1, tmp_path))


def test_faults_are_counted(benchmark, make_search):
    search = make_search()
    search.run()
    expected = {a.spec.key: a.result.value for a in search.record().attempts}
    assert benchmark['count_faults'](search, expected) == (0, 0)
    with open(search.work_dir / 'ledger.txt', 'a') as ledger:
        ledger.write('r0-k1\n')
    assert benchmark['count_faults'](search, {**expected, 'r0-k2': 1.0, 'r9-k9': 1.0}) == (2, 1)
