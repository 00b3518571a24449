"""One driver per search, held by a lock that the kernel releases when the driver dies."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mmfixnorm.errors import ConfigError


@contextmanager
def driver_lock(work_dir: Path) -> Iterator[None]:
    """Hold the search in ``work_dir``.

    Raises:
        ConfigError: Another driver holds it; the message names the process.
    """
    path = work_dir / 'driver.lock'
    with open(path, 'a+', encoding='utf-8') as f:  # 'a': opening must not delete the text of a holder
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise ConfigError(
                f'--work-dir: another driver holds the search in {str(work_dir)!r}: '
                f'{_holder(path)}; wait for it, or end it and run the command again'
            ) from err
        f.truncate(0)
        holder = {
            'host': os.uname().nodename,
            'pid': os.getpid(),
            'since': datetime.now().isoformat(sep=' ', timespec='seconds'),
        }
        f.write(json.dumps(holder))
        f.flush()
        yield


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding='utf-8'))
        return f'process {holder["pid"]} on {holder["host"]}, since {holder["since"]}'
    except (ValueError, KeyError):
        return 'a process that has just started'
