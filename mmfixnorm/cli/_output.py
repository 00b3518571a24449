"""The output of a command: a file that an option names, or a reader that may have gone.

A reader has gone where a pipe or a terminal was closed.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any, cast

from mmfixnorm.errors import ConfigError

_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, and of a terminal


def is_unread(stream: IO[str]) -> bool:
    """Return whether nothing reads the pipe or the terminal behind a stream any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no file is behind it
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def discard(stream: IO[str]) -> None:
    """Send what is written to a stream from now on, and what it still holds back, to nowhere."""
    with open(os.devnull, 'w', encoding='utf-8') as null:
        os.dup2(null.fileno(), stream.fileno())


class _Lasting:
    """A stream that can be written to when its reader has gone; every other attribute is the stream's own."""

    def __init__(self, stream: IO[str], warn_to: IO[str] | None = None) -> None:
        self._stream = stream
        self._warn_to = warn_to

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as err:
            self._lose(err)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as err:
            self._lose(err)

    def _lose(self, err: OSError) -> None:
        if err.errno not in _GONE:
            raise err
        discard(self._stream)
        if self._warn_to is not None:
            text = f'WARNING: nothing reads the output any more ({err.strerror}); the search continues'
            print(text, file=self._warn_to, flush=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: IO[str], warn_to: IO[str] | None = None) -> IO[str]:
    """Return the stream as one that can be written to when its reader has gone, of which ``warn_to`` is told."""
    return cast(IO[str], _Lasting(stream, warn_to))


@contextmanager
def outlive_readers() -> Iterator[None]:
    """Let the code inside go on when nobody reads standard output, or standard error, any more."""
    stderr = lasting(sys.stderr)
    with redirect_stdout(lasting(sys.stdout, warn_to=stderr)), redirect_stderr(stderr):
        yield


@contextmanager
def _writing(path: str, named_by: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ConfigError(f'{named_by}: cannot write {path!r} ({err.strerror}); name another file') from err


def check_writable(path: str, *, named_by: str) -> None:
    """Check that a file can be written before a measurement that would be lost; nothing is changed.

    Args:
        path (str): The file. A pipe is not opened: closing it would be the end for its reader.
        named_by (str): The option that names it.

    Raises:
        ConfigError: It cannot be written.
    """
    is_new = not os.path.lexists(path)
    if not is_new and os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return
    with _writing(path, named_by):
        with open(path, 'a', encoding='utf-8'):
            pass
        if is_new:
            os.unlink(path)


def write_output(path: str, text: str, *, named_by: str) -> None:
    """Write a file that an option names.

    Raises:
        ConfigError: It cannot be written.
    """
    with _writing(path, named_by), open(path, 'w', encoding='utf-8') as file:
        file.write(text)
