"""Which failed trials are tried again, and when."""

from __future__ import annotations

import time

_LONGEST = 60.0


class Retries:
    """The failures of one run of the driver.

    Args:
        max_attempts (int): Attempts at a trial.
        backoff_s (float): After its k-th failure a trial waits ``min(60, 2**k)`` times this, in
            seconds.
    """

    def __init__(self, max_attempts: int, backoff_s: float) -> None:
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def failed(self, key: str) -> float | None:
        """Count a failure; return the seconds until the next attempt, or None if there is none left."""
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] >= self._max_attempts:
            return None
        wait_s = self._backoff_s * min(_LONGEST, 2.0 ** self._failures[key])
        self._not_before[key] = time.monotonic() + wait_s
        return wait_s

    def failures(self, key: str) -> int:
        """Failures so far."""
        return self._failures.get(key, 0)

    def may_start(self, key: str) -> bool:
        """Whether the trial need not wait, or not any longer."""
        return time.monotonic() >= self._not_before.get(key, 0.0)
