"""What happens in a search, reported as it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: ``opened``, ``proposed``, ``submitting``, ``submitted``, ``adopted``, ``ended``,
            ``recorded``, ``retrying``, ``forking`` (what a trial continues, or
            why it does not), ``closed`` (a stage), ``decided`` (what the search does by itself, such as to continue
            beyond its range), ``warning``, ``stopping``, ``finished``, ``reported`` (the files of the report);
            also ``started`` in ``status --follow``.
        text: The event as one line for people.
        data: The event as plain data for programs.
    """

    kind: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing: the listener of a search that is not watched."""
    del event
