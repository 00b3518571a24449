"""The record of a search: one Optuna study in sqlite, with the driver as its one writer.

Each row is the end of one attempt, written in one transaction. What is running is not in here: it
is in the trials' folders, so a driver that is killed leaves nothing half-told.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.planner import Closed, Spec
from mmfixnorm.search.result import TrialResult
from mmfixnorm.search.values import values_of

STUDY_FILE = 'study.db'
_NAME = 'search'
_PROPOSED = 'proposed from '  # the first key of the batch follows
_SHOWN_DIFFERENCES = 10


@dataclass(frozen=True)
class Attempt:
    """One row of the record: what was asked for, and how the attempt ended."""

    spec: Spec
    result: TrialResult
    cost: float
    ended: datetime


def fingerprint(identity: Mapping[str, Any]) -> str:
    """A short hash of everything that decides the results of a search."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class StudyRecord:
    """The attempts of one search, in memory and in ``study.db``.

    Args:
        study (optuna.Study): An open study, made by :func:`open_record` or :func:`read_record`.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self.identity: dict[str, str] = study.user_attrs['identity']
        self.fingerprint = fingerprint(self.identity)
        self.created = datetime.fromisoformat(study.user_attrs['created'])
        self.attempts = [_to_attempt(t) for t in study.get_trials(deepcopy=False)]
        self.proposed = _read_proposed(study)

    def add(self, spec: Spec, result: TrialResult, *, cost: float) -> Attempt:
        """Write the end of an attempt."""
        attempt = Attempt(spec, result, cost, datetime.now())
        self._study.add_trial(_to_trial(attempt))
        self.attempts.append(attempt)
        return attempt

    def add_proposed(self, specs: Sequence[Spec]) -> None:
        """Write a batch of proposed points, all at once, before any of them is submitted."""
        self._study.set_user_attr(f'{_PROPOSED}{specs[0].key}', [asdict(s) for s in specs])
        self.proposed += specs

    def next_attempt(self, key: str) -> int:
        """The number of the attempt at ``key`` that is running or comes next, from 1."""
        return 1 + sum(a.spec.key == key for a in self.attempts)

    def closed(self) -> list[Closed]:
        """The trainings that need no other attempt."""
        return closed_trainings(self.attempts)

    def history(self) -> list[Closed | Spec]:
        """Everything that the planner builds on: closed trainings and proposed points."""
        return [*self.closed(), *self.proposed]


def closed_trainings(attempts: Iterable[Attempt]) -> list[Closed]:
    """Those attempts that closed their training: done or diverged."""
    return [
        Closed(a.spec.key, a.spec.lr, a.spec.alpha, a.result.value, a.spec.weight_decay)
        for a in attempts
        if a.result.outcome in ('done', 'diverged')
    ]


def open_record(work_dir: Path, identity: Mapping[str, str], *, rule: str) -> StudyRecord:
    """Open the record of this search for writing, or make it. Hold the driver's lock.

    Raises:
        ConfigError: The record belongs to another search and has trainings; the differences are
            shown.
    """
    path = work_dir / STUDY_FILE
    if path.exists():
        record = read_record(work_dir)
        if record.identity == dict(identity):
            return record
        if record.closed():
            raise ConfigError(_refusal(work_dir, record.identity, identity))
        _move_aside(work_dir)  # nothing was trained to its end: a mistake that is put right now
    _create(path, identity, rule)
    return read_record(work_dir)


def read_record(work_dir: Path) -> StudyRecord:
    """Open the record in ``work_dir``.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    path = work_dir / STUDY_FILE
    if not path.exists():
        raise ConfigError(f'--work-dir: no search was started in {str(work_dir)!r} (no {STUDY_FILE})')
    try:
        storage = _storage(path)
        return StudyRecord(optuna.load_study(study_name=_NAME, storage=storage))
    except (KeyError, optuna.exceptions.OptunaError, _database_error()) as err:
        raise ConfigError(f'{path}: not the record of a search ({err})') from err


def _database_error() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _storage(path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f'sqlite:///{path}')


def _create(path: Path, identity: Mapping[str, str], rule: str) -> None:
    """Make the study under another name, so that ``study.db`` is there in full or not at all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    storage = _storage(draft)
    direction = 'maximize' if rule == 'greater' else 'minimize'
    study = optuna.create_study(study_name=_NAME, storage=storage, direction=direction)
    study.set_user_attr('identity', dict(identity))
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


def _refusal(work_dir: Path, was: Mapping[str, str], now: Mapping[str, str]) -> str:
    keys = [k for k in sorted({*was, *now}) if was.get(k) != now.get(k)]
    keys.sort(key=lambda k: not k.startswith('search.'))
    lines = [f'  {k}: was {was.get(k, "absent")}, is {now.get(k, "absent")}' for k in keys[:_SHOWN_DIFFERENCES]]
    if len(keys) > _SHOWN_DIFFERENCES:
        lines.append(f'  and {len(keys) - _SHOWN_DIFFERENCES} more')
    return (
        f'--work-dir: {str(work_dir)!r} holds another search:\n'
        + '\n'.join(lines)
        + '\nput that back to go on, or choose another --work-dir'
    )


def _to_trial(attempt: Attempt) -> FrozenTrial:
    spec, result = attempt.spec, attempt.result
    params = values_of(spec)
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(0.0, max(1e6, value)) for name, value in params.items()
    }
    done = result.outcome == 'done'
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        value=result.value if done else None,
        params=params,
        distributions=distributions,
        user_attrs={
            'key': spec.key,
            'attempt': result.attempt,
            'outcome': result.outcome,
            'fingerprint': result.fingerprint,
            'cost': attempt.cost,
            # Everything, to be read back; the others are for those who look at the study.
            'row': {
                'spec': asdict(spec),
                'result': asdict(result),
                'cost': attempt.cost,
                'ended': attempt.ended.isoformat(),
            },
        },
    )


def _read_proposed(study: optuna.Study) -> list[Spec]:
    batches = [batch for name, batch in study.user_attrs.items() if name.startswith(_PROPOSED)]
    return [Spec(**point) for batch in batches for point in batch]


def _to_attempt(trial: FrozenTrial) -> Attempt:
    row = trial.user_attrs['row']
    return Attempt(
        spec=Spec(**row['spec']),
        result=TrialResult(**row['result']),
        cost=row['cost'],
        ended=datetime.fromisoformat(row['ended']),
    )
