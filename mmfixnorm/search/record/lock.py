"""One driver per search, held by a lock that the kernel releases when the driver dies.

Some network file systems have no such locks. There a file that is created exclusively stands for the lock; a killed
driver leaves it, and the next one on the same machine sees that its process has ended.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import writing_to
from mmfixnorm.search.executors.claim import start_time

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_BY_FILE = 'driver.lock.held'


@contextmanager
def driver_lock(work_dir: Path) -> Iterator[None]:
    """Hold the search in ``work_dir``.

    Raises:
        ConfigError: Another driver holds it, or may hold it; the message names the process. Or the lock cannot be
            written, such as that of another user.
    """
    path = work_dir / 'driver.lock'
    with ExitStack() as stack:
        with writing_to(work_dir):
            file = stack.enter_context(open(path, 'a+', encoding='utf-8'))  # 'a' leaves the text of a holder there
            by_file = _acquire(file, path)
            file.truncate(0)
            file.write(json.dumps(_this_process()))
            file.flush()
        try:
            yield
        finally:
            if by_file is not None:
                by_file.unlink(missing_ok=True)


def _acquire(file: IO[str], path: Path) -> Path | None:
    """Take the lock; return the file that stands for it where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise ConfigError(_held(path, 'wait for it, or end it and run the command again')) from err
    except OSError as err:
        if err.errno not in _NO_LOCKS:
            raise ConfigError(f'--work-dir: cannot lock {str(path)!r} ({err.strerror}); choose another folder') from err
        return _acquire_by_file(path.with_name(_BY_FILE))
    return None


def _acquire_by_file(path: Path) -> Path:
    for _ in range(2):
        try:
            with open(path, 'x', encoding='utf-8') as file:
                file.write(json.dumps(_this_process()))
        except FileExistsError:
            if not _has_ended(path):
                advice = f'wait for it, or delete {path} if it has ended (this file system has no locks)'
                raise ConfigError(_held(path, advice)) from None
            path.unlink(missing_ok=True)
        else:
            return path
    raise ConfigError(_held(path, 'wait for it, or end it and run the command again'))


def _this_process() -> dict[str, object]:
    return {
        'host': os.uname().nodename,
        'pid': os.getpid(),
        'started': start_time(os.getpid()),
        'since': datetime.now().isoformat(sep=' ', timespec='seconds'),
    }


def _has_ended(path: Path) -> bool:
    """Return whether the holder is a process of this machine that has ended."""
    try:
        holder = json.loads(path.read_text(encoding='utf-8'))
        return bool(holder['host'] == os.uname().nodename and start_time(holder['pid']) != holder['started'])
    except (OSError, ValueError, KeyError):
        return False


def _held(path: Path, advice: str) -> str:
    return f'--work-dir: another driver holds the search in {str(path.parent)!r}: {_holder(path)}; {advice}'


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding='utf-8'))
        return f'process {holder["pid"]} on {holder["host"]}, since {holder["since"]}'
    except (ValueError, KeyError):
        return 'a process that has just started'
    except OSError as err:
        return f'a process that is not known ({path.name}: {err.strerror})'
