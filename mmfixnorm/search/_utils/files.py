"""Files that are either there in full or not there at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmfixnorm.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write by temporary file, fsync and rename: a kill leaves the old file or the new one."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with open(temporary, 'w', encoding='utf-8') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON the same way; NaN and infinity are refused, other parsers cannot read them."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + '\n')


def make_folder(path: Path, *, named_by: str) -> None:
    """Make a folder and prove that files can be written there.

    Raises:
        ConfigError: They cannot.
    """
    probe = path / f'.writable.{os.getpid()}'
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise ConfigError(f'{named_by}: cannot write to {str(path)!r} ({err.strerror}); choose another folder') from err
