"""What this package warns of in a training, for the record of the search: nobody reads the log of each trial."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = __name__.partition('.')[0]
_LOGGING = ('logging', 'mmengine.logging')


class WarningLog(logging.Handler):
    """Keeps each warning that code of this package logs, once.

    Other packages warn of what is normal. Who logs is read off the stack, since ``print_log`` and the logger of a
    Runner do not say.

    Attributes:
        texts (list[str]): In the order in which they came.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of this package."""
        text = record.getMessage()
        if text not in self.texts and _logging_module().startswith(f'{_PACKAGE}.'):
            self.texts.append(text)

    @contextmanager
    def listening(self, *loggers: logging.Logger) -> Iterator[None]:
        """Listen to these loggers."""
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)


def _logging_module() -> str:
    """Return the name of the module that called the logger."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get('__name__', '')
        if name != __name__ and not any(name == part or name.startswith(f'{part}.') for part in _LOGGING):
            return str(name)
        frame = frame.f_back
    return ''
