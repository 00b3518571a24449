"""Where the output of a command goes: a file that can be written, or a reader that has gone."""

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


def check_writable(option: str, file: str) -> None:
    """Check that a file can be written, before what will stand in it is measured.

    Raises:
        ConfigError: It cannot; the message names the option.
    """
    try:
        with open(file, 'a', encoding='utf-8'):
            pass
    except OSError as err:
        raise ConfigError(f'{option}: cannot write to {file!r} ({err.strerror}); choose another file') from err


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
