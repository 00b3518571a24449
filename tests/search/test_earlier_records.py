"""Work dirs of searches that were begun with an earlier version: they continue, report and compare.

``records/begun_with_9604418`` holds two searches that were interrupted in the middle, made by that commit. The expected
ends are those that the same commit reached from there.
"""

import shutil
from pathlib import Path

import pytest

from mmfixnorm.search import Point, load_problem, read_record, run_search, write_report
from mmfixnorm.search.driver import TRIAL_COMMAND
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.record.compare import read_studies

HERE = Path(__file__).parent
RECORDS = HERE / 'records' / 'begun_with_9604418'
# Attempts that the record holds, and then those that complete it.
TRAINED = [
    ('r0-k0', 'done', Point(0.425, 1.0), None),
    ('r0-k1', 'done', Point(0.8, 1.0), None),
    ('r1-k0', 'done', Point(0.05, 1.0), None),
    ('r1-k1', 'cancelled', Point(0.425, 1.0), None),
    ('r1-k1', 'done', Point(0.425, 1.0), None),
    ('alpha-1', 'done', Point(0.425, 2.0), None),
    ('confirm-a-1', 'done', Point(0.425, 2.0), 1),
    ('confirm-b-1', 'done', Point(0.425, 1.0), 1),
]
PROPOSED = [
    ('bo-00', 1.169521719, 6.447036683e-05, 89.915863),
    ('bo-01', 2.357123043, 0.0004692606638, 81.061726),
    ('bo-02', 0.9664501163, 1.011196574e-05, 85.554569),
    ('bo-03', 0.3178307066, 0.0001752180511, None),
    ('bo-03', 0.3178307066, 0.0001752180511, 73.970958),
]


@pytest.fixture
def continued(tmp_path, monkeypatch):
    """Copy a record, continue its search with this version, and return problem, outcome and record."""

    def run(name, command):
        shutil.copytree(RECORDS / name, tmp_path / name)
        monkeypatch.syspath_prepend(HERE)
        monkeypatch.setenv('PYTHONPATH', f'{HERE}:{HERE.parents[1]}')
        problem = load_problem(tmp_path / name / 'config.py', work_dir=tmp_path / name / 'work_dir')
        outcome = run_search(problem, executor=LocalExecutor(1, command), poll_s=0.01)
        return problem, outcome, read_record(problem.work_dir)

    return run


@pytest.fixture
def fake_command(fake_trial):
    return fake_trial('plain')


@pytest.mark.slow
def test_real_trainings_continue_from_their_checkpoint_to_the_same_winner(continued):
    problem, outcome, record = continued('trained', list(TRIAL_COMMAND))
    assert outcome.kind == 'done'
    assert [(a.spec.key, a.result.outcome, a.spec.point, a.spec.seed) for a in record.attempts] == TRAINED
    assert (outcome.best.key, outcome.best.point) == ('alpha-1', Point(0.425, 2.0))
    log = (problem.trial_dir('r1-k1') / 'log.txt').read_text()
    assert 'epoch_1.pth' in log  # the checkpoint of the attempt that 9604418 had begun
    assert len(record.attempts[4].result.curve) == 4


def test_proposals_of_the_record_stay_and_new_ones_follow(continued, fake_command):
    _, outcome, record = continued('proposed', fake_command)
    rows = [(a.spec.key, a.spec.point.lr, a.spec.point.weight_decay, a.result.value) for a in record.attempts]
    assert rows[:5] == PROPOSED
    assert [key for key, *_ in rows[5:]] == ['bo-04', 'bo-05']
    assert (outcome.kind, outcome.best.key) == ('done', 'bo-00')


def test_both_are_reported_and_compared_from_their_records_alone(continued, fake_command, tmp_path):
    problem, _, record = continued('proposed', fake_command)
    shutil.copytree(RECORDS / 'trained', tmp_path / 'trained')
    trained = load_problem(tmp_path / 'trained' / 'config.py', work_dir=tmp_path / 'trained' / 'work_dir')
    files = write_report(problem, record, compare=[trained.work_dir])
    page = files.report.read_text()
    assert 'Searches side by side' in page
    assert 'FixNormSearch' in page
    (study,) = read_studies([trained.work_dir])
    assert [(row.key, row.outcome) for row in study.state.rows] == [
        ('r0-k0', 'done'), ('r0-k1', 'done'), ('r1-k0', 'done'), ('r1-k1', 'cancelled')
    ]  # fmt: skip
    assert study.state.progress.cost == [0.5, 1.0, 2.0]
    assert (
        'best of the finished stages: lr 0.425'
        in write_report(trained, read_record(trained.work_dir)).report.read_text()
    )
