"""The record of a search: one Optuna study in sqlite, with the driver as its one writer.

Each row is the end of one attempt, written in one transaction. Running trials are not in the record: they are in the
trials' folders, so a driver that is killed leaves no incomplete row.

Optuna writes, so that its tools open the study; :mod:`.sqlite` reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import writing_to
from mmfixnorm.search.executors.claim import running_claims
from mmfixnorm.search.methods.base import FinishedTraining, Spec
from mmfixnorm.search.problem import SearchProblem, differences
from mmfixnorm.search.record.sqlite import StudyFile, read_study_file
from mmfixnorm.search.trial.folder import TrialResult, trials_with_results

if TYPE_CHECKING:
    import optuna  # imported where the record is written: that takes half a second
    from optuna.trial import FrozenTrial

STUDY_FILE = 'study.db'
_NAME = 'search'
_PROPOSED = 'proposed from '  # the first key of the batch follows
_SHOWN_DIFFERENCES = 10


@dataclass(frozen=True)
class Attempt:
    """One row of the record: the training, and how the attempt ended; ``cost``, the training's length, in T_max."""

    spec: Spec
    result: TrialResult
    cost: float
    ended: datetime

    @property
    def spent(self) -> float:
        """What it has cost, in T_max: nothing if another trial's training is the same, the rest if it continues one."""
        return 0.0 if self.result.same_as else self.cost * (1.0 - self.result.forked_part)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash everything that decides the results of a search."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class StudyRecord:
    """The attempts of one search, in memory and in ``study.db``.

    Args:
        path (Path): The file, read by :func:`open_record` or :func:`read_record`.
        content (StudyFile): Its content.
    """

    def __init__(self, path: Path, content: StudyFile) -> None:
        self._path = path
        self.identity: dict[str, str] = content.user_attrs['identity']
        self.fingerprint = fingerprint(self.identity)
        #: What ``--cfg-options`` gave when the search was begun; None in a record that does not say.
        self.cfg_options: list[str] | None = content.user_attrs.get('cfg_options')
        self.created = datetime.fromisoformat(content.user_attrs['created'])
        self.attempts: list[Attempt] = []
        self.proposed = _read_proposed(content.user_attrs)
        self._ended: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._finished: list[FinishedTraining] = []
        for row in content.rows:
            self._count(_to_attempt(row))

    @cached_property
    def study(self) -> optuna.Study:
        """The Optuna study, open for writing; only for the holder of the driver's lock."""
        import optuna

        return optuna.load_study(study_name=_NAME, storage=_storage(self._path))

    def add(self, spec: Spec, result: TrialResult, *, cost: float) -> Attempt:
        """Write the end of an attempt."""
        attempt = Attempt(spec, result, cost, datetime.now())
        self.study.add_trial(_to_trial(attempt))
        self._count(attempt)
        return attempt

    def _count(self, attempt: Attempt) -> None:
        key = attempt.spec.key
        self.attempts.append(attempt)
        self._ended[key] += 1
        self._seconds[key] += attempt.result.seconds
        if is_finished(attempt):  # the last attempt of its trial
            self._finished.append(_finished(attempt, self._seconds[key]))

    def add_proposed(self, specs: Sequence[Spec]) -> None:
        """Write a batch of proposed points, all at once, before any of them is submitted."""
        self.study.set_user_attr(f'{_PROPOSED}{specs[0].key}', [s.to_dict() for s in specs])
        self.proposed += specs

    def next_attempt(self, key: str) -> int:
        """Return the number of the attempt at ``key`` that is running or comes next, from 1."""
        return 1 + self._ended[key]

    def finished(self) -> list[FinishedTraining]:
        """List the trainings that need no other attempt."""
        return list(self._finished)

    def history(self) -> list[FinishedTraining | Spec]:
        """Return everything that the planner builds on: finished trainings and proposed points."""
        return [*self.finished(), *self.proposed]


def is_finished(attempt: Attempt) -> bool:
    """Return whether an attempt finished its training: done, measured or diverged."""
    return attempt.result.finished


def _finished(attempt: Attempt, seconds: float) -> FinishedTraining:
    spec, result = attempt.spec, attempt.result
    low, high = result.ramp.get('lr_range') or (None, None)
    lr_range = None if low is None or high is None else (low, high)
    return FinishedTraining(spec.key, spec.point, result.value, lr_range, attempt.spent, seconds)


def open_record(problem: SearchProblem) -> StudyRecord:
    """Open the record of this search for writing, or make it; the caller holds the driver's lock.

    Raises:
        ConfigError: The record belongs to another search that has trainings, finished or running, recorded or not (the
            differences are shown), it cannot be opened, or it cannot be written.
    """
    work_dir, identity = problem.work_dir, problem.identity
    path = work_dir / STUDY_FILE
    if has_record(work_dir):
        record = _open(path)
        if not differences(record.identity, identity):
            return record
        if record.finished():
            raise ConfigError(_refusal(problem, record))
        if ended := trials_with_results(work_dir / 'trials', fingerprint=record.fingerprint):
            raise ConfigError(
                f'{_refusal(problem, record)}\nTrials of that search have ended, and no driver has '
                f'recorded them yet: {", ".join(ended)}'
            )
        if running := running_claims(work_dir / 'trials', record.next_attempt):
            raise ConfigError(
                f'{_refusal(problem, record)}\nTrials of that search still run: '
                f'{", ".join(running)}; end them, or wait for them, before another search takes the folder '
                '(of one that has ended and is in no record, delete its attempt-N.claim and attempt-N.job)'
            )
        _move_aside(work_dir)  # nothing has finished and nothing runs: the user corrects a mistake
    with writing_to(work_dir):
        _create(path, problem)
    return _open(path)


def _open(path: Path) -> StudyRecord:
    """Open with Optuna first: sqlite then completes a write during which a driver was killed."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        study = optuna.load_study(study_name=_NAME, storage=_storage(path))
    except (KeyError, optuna.exceptions.OptunaError, SQLAlchemyError) as err:
        raise ConfigError(f'{path}: not the record of a search ({err})') from err
    record = read_record(path.parent)
    record.study = study
    return record


def has_record(work_dir: Path) -> bool:
    """Return whether a search was started in ``work_dir``.

    Raises:
        ConfigError: The folder cannot be read.
    """
    try:
        return (work_dir / STUDY_FILE).exists()
    except OSError as err:
        raise ConfigError(f'--work-dir: cannot read {str(work_dir)!r} ({err.strerror}); make it readable') from err


def read_record(work_dir: Path) -> StudyRecord:
    """Read the record in ``work_dir``; nothing is changed there, and a driver may write meanwhile.

    Raises:
        ConfigError: There is no record, or it cannot be read.
    """
    path = work_dir / STUDY_FILE
    if not has_record(work_dir):
        raise ConfigError(f'--work-dir: no search was started in {str(work_dir)!r} (no {STUDY_FILE})')
    try:
        return StudyRecord(path, read_study_file(path, study_name=_NAME))
    except (KeyError, sqlite3.Error) as err:
        raise ConfigError(f'{path}: not the record of a search ({err})') from err


def read_record_of(problem: SearchProblem) -> StudyRecord:
    """Read the record of this search.

    Raises:
        ConfigError: There is no record, it cannot be read, or it belongs to another search.
    """
    record = read_record(problem.work_dir)
    check_belongs(problem, record)
    return record


def check_belongs(problem: SearchProblem, record: StudyRecord) -> None:
    """Check that a record is that search's; every command asks it.

    Raises:
        ConfigError: The record belongs to another search; the differences are shown.
    """
    if differences(record.identity, problem.identity):
        raise ConfigError(_refusal(problem, record))


def _storage(path: Path) -> optuna.storages.RDBStorage:
    import optuna

    # By a function that connects: in a URL, characters such as ? and % of a path would mean something.
    return optuna.storages.RDBStorage('sqlite:///record', engine_kwargs={'creator': lambda: sqlite3.connect(path)})


def _create(path: Path, problem: SearchProblem) -> None:
    """Make the study under another name, so that ``study.db`` is there in full or not at all."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for abandoned in path.parent.glob(f'.{path.name}.*'):  # by a driver that was killed, or found the disk full
        abandoned.unlink()
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    storage = _storage(draft)
    direction = 'maximize' if problem.settings.rule == 'greater' else 'minimize'
    study = optuna.create_study(study_name=_NAME, storage=storage, direction=direction)
    study.set_user_attr('identity', problem.identity)
    study.set_user_attr('cfg_options', _as_given(problem.cfg_options))
    study.set_user_attr('created', datetime.now().isoformat())
    storage.remove_session()
    storage.engine.dispose()
    os.replace(draft, path)


def _move_aside(work_dir: Path) -> None:
    number = 1
    while (aside := work_dir / f'replaced-{number}').exists():
        number += 1
    aside.mkdir()
    for name in ('trials', STUDY_FILE):
        if (work_dir / name).exists():
            os.replace(work_dir / name, aside / name)


def _refusal(problem: SearchProblem, record: StudyRecord) -> str:
    was, now = record.identity, problem.identity
    keys = differences(was, now)
    lines = [f'  {k}: was {was.get(k, "absent")}, is {now.get(k, "absent")}' for k in keys[:_SHOWN_DIFFERENCES]]
    if len(keys) > _SHOWN_DIFFERENCES:
        lines.append(f'  and {len(keys) - _SHOWN_DIFFERENCES} more')
    begun, asked = record.cfg_options, _as_given(problem.cfg_options)
    if begun is not None and begun != asked:
        lines.append(f'it was begun {_with_options(begun)}; this is a command {_with_options(asked)}')
    return (
        f'--work-dir: {str(problem.work_dir)!r} holds another search:\n'
        + '\n'.join(lines)
        + '\nput that back to continue, or choose another --work-dir'
    )


def _as_given(cfg_options: Mapping[str, Any]) -> list[str]:
    return [f'{key}={value}' for key, value in cfg_options.items()]


def _with_options(given: Sequence[str]) -> str:
    return f'with --cfg-options {shlex.join(given)}' if given else 'without --cfg-options'


def _to_trial(attempt: Attempt) -> FrozenTrial:
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import TrialState, create_trial

    spec, result = attempt.spec, attempt.result
    params = spec.point.values
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(min(0.0, value), max(1e6, value)) for name, value in params.items()
    }
    done = result.outcome == 'done'
    state = {'done': TrialState.COMPLETE, 'measured': TrialState.PRUNED}.get(result.outcome, TrialState.FAIL)
    return create_trial(
        state=state,
        value=result.value if done else None,
        params=params,
        distributions=distributions,
        user_attrs={
            'key': spec.key,
            'attempt': result.attempt,
            'outcome': result.outcome,
            'fingerprint': result.fingerprint,
            'cost': attempt.spent,
            # Everything, to be read back; the other attributes are for tools that open the study.
            'row': {
                'spec': spec.to_dict(),
                'result': asdict(result),
                'cost': attempt.cost,
                'ended': attempt.ended.isoformat(),
            },
        },
    )


def _read_proposed(user_attrs: Mapping[str, Any]) -> list[Spec]:
    batches = [batch for name, batch in user_attrs.items() if name.startswith(_PROPOSED)]
    return [Spec.from_dict(spec) for batch in batches for spec in batch]


def _to_attempt(row: Mapping[str, Any]) -> Attempt:
    return Attempt(
        spec=Spec.from_dict(row['spec']),
        result=TrialResult(**row['result']),
        cost=row['cost'],
        ended=datetime.fromisoformat(row['ended']),
    )
