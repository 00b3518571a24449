"""The record of a search opens in optuna-dashboard."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

DASHBOARD = os.environ.get('OPTUNA_DASHBOARD') or shutil.which('optuna-dashboard')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DASHBOARD, reason='no optuna-dashboard on PATH or in the variable OPTUNA_DASHBOARD'),
]


@pytest.fixture
def ask():
    """Start a dashboard on a record, on loopback; return a function that asks its API."""
    started = []

    def start(path):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        command = [DASHBOARD, f'sqlite:///{path}', '--host', '127.0.0.1', '--port', str(port)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

        def get(place):
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/api/{place}', timeout=60) as answer:
                return json.load(answer)

        for _ in range(600):
            try:
                get('meta')
                break
            except urllib.error.URLError:
                assert started[-1].poll() is None, 'the dashboard ended'
                time.sleep(0.1)
        return get

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=60)


def test_it_shows_every_attempt_with_its_value_and_its_tuned_numbers(make_search, small, ask):
    search = make_search(small)
    search.run('kill-once')
    get = ask(search.work_dir / 'study.db')
    (study,) = get('studies')['study_summaries']
    assert (study['study_name'], study['directions']) == ('search', ['maximize'])
    shown = get(f'studies/{study["study_id"]}?after=0')['trials']
    attempts = search.record().attempts
    assert len(shown) == len(attempts) == 6
    assert [t['state'] for t in shown].count('Fail') == 1
    best = max((t for t in shown if t['state'] == 'Complete'), key=lambda t: t['values'][0])
    winner = max((a for a in attempts if a.result.value is not None), key=lambda a: a.result.value)
    assert best['values'] == [winner.result.value]
    numbers = {p['name']: float(p['param_external_value']) for p in best['params']}
    assert numbers == {'lr': winner.spec.point.lr, 'alpha': winner.spec.point.alpha}
