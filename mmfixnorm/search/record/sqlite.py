"""Read ``study.db`` in milliseconds, without ever writing to it.

The driver writes the file through Optuna. Optuna's way of reading builds a trial out of five tables,
which takes seconds for thousands of rows, and needs Optuna itself; a row of a search is one piece of
JSON that says everything. The tables that are named here are the same in Optuna 4 and 5.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

_STUDY = 'SELECT study_id FROM studies WHERE study_name = ?'
_USER_ATTRS = 'SELECT key, value_json FROM study_user_attributes WHERE study_id = ? ORDER BY study_user_attribute_id'
_ROWS = """
SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id)
WHERE key = 'row' AND study_id = ? ORDER BY number
"""
_WAIT_S = 30.0  # for the lock, while the driver writes a row


class StudyFile(NamedTuple):
    """The content of a study: its user attributes, and the user attribute ``row`` of each trial in order."""

    user_attrs: dict[str, Any]
    rows: list[dict[str, Any]]


def read_study_file(path: Path, *, study_name: str) -> StudyFile:
    """Read the file as it is at one moment, also while a driver writes to it.

    Args:
        path (Path): The sqlite file.
        study_name (str): The study in it.

    Raises:
        sqlite3.Error: The file is not an sqlite file.
        KeyError: The study is not in it.
    """
    while True:
        try:
            return _read(path, study_name, mode='ro')
        except sqlite3.OperationalError as err:
            if 'readonly' not in str(err):
                raise
        with suppress(FileNotFoundError):  # the next driver has just repaired it
            return _read_repaired(path, study_name)


def _read_repaired(path: Path, study_name: str) -> StudyFile:
    """Read a copy, where a killed driver left the file in the middle of a write; the next driver repairs the file."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (path.name, f'{path.name}-journal'):
            shutil.copyfile(path.with_name(name), Path(folder, name))
        return _read(Path(folder, path.name), study_name, mode='rw')


def _read(path: Path, study_name: str, *, mode: str) -> StudyFile:
    with closing(sqlite3.connect(f'file:{quote(str(path))}?mode={mode}', uri=True, timeout=_WAIT_S)) as connection:
        connection.execute('BEGIN')  # one snapshot for all that follows
        study = connection.execute(_STUDY, (study_name,)).fetchone()
        if study is None:
            raise KeyError(study_name)
        attrs = connection.execute(_USER_ATTRS, study)
        user_attrs = {key: json.loads(text) for key, text in attrs}
        rows = connection.execute(_ROWS, study)
        return StudyFile(user_attrs, [json.loads(text) for (text,) in rows])
