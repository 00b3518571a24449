"""Read the records of searches without their configs: a record itself says what was searched."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import nest
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState, search_state
from mmfixnorm.search.record.study import STUDY_FILE, StudyRecord, read_record
from mmfixnorm.search.settings import SearchSettings

_SETTINGS = 'search.'
_EXECUTOR = 'search.executor.'
_LENGTHS = ('config.train_cfg.max_epochs', 'config.train_cfg.max_iters')


class Study(NamedTuple):
    """One search.

    Attributes:
        label: Its name in a figure.
        work_dir: Folder of its record.
        problem: The search as far as its record tells it: of the config the length of a training only, of
            the settings everything but how trials are executed.
        record: All attempts.
        state: Rows and rounds.
    """

    label: str
    work_dir: Path
    problem: SearchProblem
    record: StudyRecord
    state: SearchState

    @property
    def settings(self) -> SearchSettings:
        """Its ``search`` block."""
        return self.problem.settings


def read_studies(work_dirs: Sequence[str | os.PathLike[str]], labels: Sequence[str] | None = None) -> list[Study]:
    """Read the records of searches.

    Args:
        work_dirs: Work dirs of searches, or their ``study.db``.
        labels: One for each; by default the folders' names.

    Raises:
        ConfigError: There is no record, a record is given twice, labels do not match, or the searches are for
            different metrics.
    """
    paths = [Path(work_dir) for work_dir in work_dirs]
    paths = [(path.parent if path.name == STUDY_FILE else path).resolve() for path in paths]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise ConfigError(f'{twice[0]} is given twice')
    if labels is not None and len(labels) != len(paths):
        raise ConfigError(f'--labels: must be one for each of the {len(paths)} work dirs, got {len(labels)}')
    names = labels or [_label(path, paths) for path in paths]
    studies = [_read_study(path, label) for path, label in zip(paths, names, strict=True)]
    metrics = {(study.settings.metric, study.settings.rule) for study in studies}
    if len(metrics) > 1:
        found = '\n'.join(f'  {s.work_dir}: {s.settings.metric}, rule {s.settings.rule!r}' for s in studies)
        raise ConfigError(f'the searches cannot be compared, they must be for one metric and rule:\n{found}')
    return studies


def _label(path: Path, paths: Sequence[Path]) -> str:
    """Name a folder by as many of its last parts as tell it from the others."""
    for parts in range(1, len(path.parts)):
        name = '/'.join(path.parts[-parts:])
        if sum('/'.join(other.parts[-parts:]) == name for other in paths) == 1:
            return name
    return str(path)


def _read_study(work_dir: Path, label: str) -> Study:
    if not (work_dir / STUDY_FILE).is_file():
        raise ConfigError(f'{work_dir}: no record of a search here (no {STUDY_FILE}); give the work dir of a search')
    record = read_record(work_dir)
    problem = _recorded_problem(work_dir, record)
    return Study(label, work_dir, problem, record, search_state(problem, record))


def _recorded_problem(work_dir: Path, record: StudyRecord) -> SearchProblem:
    lengths = _values(record.identity, _LENGTHS)
    settings = _values(record.identity, [key for key in record.identity if key.startswith(_SETTINGS)])
    executor = {key: settings.pop(key) for key in list(settings) if key.startswith(_EXECUTOR)}
    if executor:  # another number of processes per trial is another search
        settings[f'{_SETTINGS}executor'] = dict(
            type='local', **{key.removeprefix(_EXECUTOR): value for key, value in executor.items()}
        )
    return SearchProblem(
        filename=str(work_dir / STUDY_FILE),
        cfg=Config(nest({key.removeprefix('config.'): value for key, value in lengths.items()})),
        cfg_options={},
        settings=parse_settings({key.removeprefix(_SETTINGS): value for key, value in settings.items()}),
        work_dir=work_dir,
    )


def _values(identity: Mapping[str, str], keys: Sequence[str]) -> dict[str, Any]:
    return {key: ast.literal_eval(identity[key]) for key in keys if key in identity}
