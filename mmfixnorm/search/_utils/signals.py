"""Ctrl-C and SIGTERM as a flag that a loop checks between two steps.

An exception could arrive in the middle of a write to the record; a flag cannot.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested:
    """False until SIGINT or SIGTERM arrives."""

    def __init__(self) -> None:
        self.signal_name = ''

    def __bool__(self) -> bool:
        return bool(self.signal_name)


@contextmanager
def stop_on_signals() -> Iterator[StopRequested]:
    """Turn SIGINT and SIGTERM into the flag; a second one raises KeyboardInterrupt."""
    flag = StopRequested()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # Python delivers signals to the main thread only
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if flag:
            raise KeyboardInterrupt
        flag.signal_name = signal.Signals(number).name

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
