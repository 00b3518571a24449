"""What the commands print to: tables that are not cut, and a line that says what a command is doing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ['console', 'progress']

_UNLIMITED = 10_000


def console(**options: Any) -> Console:
    """Return a console for standard output; in a file or a pipe nothing limits its width, unless ``COLUMNS`` does."""
    from rich.console import Console

    found = Console(**options)
    if not found.is_terminal and 'COLUMNS' not in os.environ:
        found.width = _UNLIMITED
    return found


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is done next, in one line on stderr that goes away; only on a terminal."""
    from rich.console import Console

    terminal = Console(stderr=True, highlight=False)
    if not terminal.is_terminal:
        yield lambda text: None
        return
    with terminal.status('building the model') as status:
        yield status.update
