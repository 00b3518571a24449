"""A trial that failed waits before it is tried again, and the others go on meanwhile."""

import time

import pytest

from mmfixnorm.search.driver import Retries


@pytest.mark.parametrize('backoff_s', [1.0, 0.5, 0.0])
def test_the_wait_doubles_up_to_sixty_times_the_setting(backoff_s):
    retries = Retries(9, backoff_s)
    waits = [retries.failed('r0-k0') for _ in range(8)]
    assert waits == [backoff_s * w for w in (2, 4, 8, 16, 32, 60, 60, 60)]
    assert retries.failed('r0-k0') is None
    assert retries.failures('r0-k0') == 9


def test_only_the_trial_that_failed_waits(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    retries = Retries(3, 1.0)
    retries.failed('r0-k0')
    assert not retries.may_start('r0-k0')
    assert retries.may_start('r0-k1')
    clock[0] += 2.0
    assert retries.may_start('r0-k0')


def test_other_trials_go_on_while_one_waits(make_search):
    search = make_search('num_splits=3, num_rounds=1, schedule_fractions=[1.0], alphas=[1.0]')
    events = []
    outcome = search.run('kill-once', listener=events.append, search__backoff_s=0.5)
    assert outcome.kind == 'done'
    kinds = [(e.kind, e.data.get('key')) for e in events]
    retrying = kinds.index(('retrying', 'r0-k1'))
    again = kinds.index(('submitting', 'r0-k1'), retrying)
    assert ('recorded', 'r0-k2') in kinds[retrying:again]
    assert events[retrying].data['wait_s'] == 1.0
