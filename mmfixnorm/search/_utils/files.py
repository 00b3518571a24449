"""Write files in full or not at all, and explain a write that fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfixnorm.errors import ConfigError


class CannotWriteError(ConfigError):
    """A file of a search, or its record, cannot be written now."""


def write_text(path: Path, text: str) -> None:
    """Write by temporary file, fsync and rename, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with open(temporary, 'w', encoding='utf-8') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON the same way; NaN and infinity are refused, because other parsers cannot read them."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + '\n')


def make_folder(path: Path, *, named_by: str) -> None:
    """Make a folder and check that files can be written there.

    Raises:
        ConfigError: The folder cannot be written to; the message names ``named_by``.
    """
    probe = path / f'.writable.{os.getpid()}'
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise ConfigError(f'{named_by}: cannot write to {str(path)!r} ({err.strerror}); choose another folder') from err


@contextmanager
def writing_to(work_dir: Path) -> Iterator[None]:
    """Report a full disk, or a record that another program has locked, in one line.

    Raises:
        CannotWriteError: A write inside the context has failed.
    """
    try:
        yield
    except Exception as err:
        if not isinstance(err, (OSError, *_storage_errors())):
            raise
        reason = str(err.__cause__ or err).splitlines()[0]  # the lines after it are SQL
        raise CannotWriteError(
            f'--work-dir: cannot write to {str(work_dir)!r} ({reason}); nothing in the record is lost, and running '
            'trials continue; put that right and run the same command again'
        ) from err


def _storage_errors() -> tuple[type[Exception], ...]:
    from optuna.exceptions import StorageInternalError  # late: only a driver that writes needs optuna
    from sqlalchemy.exc import SQLAlchemyError  # where a file cannot even be opened, Optuna passes it on

    return StorageInternalError, SQLAlchemyError
