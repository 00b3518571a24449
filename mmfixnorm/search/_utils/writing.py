"""Writes of the driver that can fail for a reason that the user can put right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfixnorm.errors import ConfigError


class CannotWriteError(ConfigError):
    """A file of a search, or its record, cannot be written now."""


@contextmanager
def writing_to(work_dir: Path) -> Iterator[None]:
    """Tell a disk that is full, or a record that another program has locked, as what it is.

    Raises:
        CannotWriteError: A write inside has failed.
    """
    try:
        yield
    except (OSError, _storage_error()) as err:
        reason = str(err.__cause__ or err).splitlines()[0]  # then SQL follows
        raise CannotWriteError(
            f'--work-dir: cannot write to {str(work_dir)!r} ({reason}); nothing that is recorded '
            'is lost, and trials that run go on; put that right and give the same command again'
        ) from err


def _storage_error() -> type[Exception]:
    from optuna.exceptions import StorageInternalError  # late: only who writes needs optuna

    return StorageInternalError
