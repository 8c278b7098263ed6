"""Telling of a trouble that comes in storms."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SELDOM = 60.0  # seconds between two log records of the same trouble


class Seldom:
    """Tells of a trouble that comes in storms: at once, and then at most once in so many seconds.

    Args:
        seconds: the least time between two times that it is told of.
        clock: monotonic seconds.

    Example:
        >>> now = 0.0
        >>> seldom = Seldom(60, lambda: now)
        >>> seldom.count(), seldom.count(), seldom.count()
        (1, 0, 0)
        >>> now = 60.0
        >>> seldom.count()
        3
    """

    def __init__(self, seconds: float = _SELDOM, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._next: float | None = None

    def count(self) -> int:
        """Counts one; returns how many there were since it was last told of if now is the time, else 0."""
        now = self._clock()
        with self._lock:
            self._count += 1
            if self._next is not None and now < self._next:
                return 0
            count, self._count, self._next = self._count, 0, now + self._seconds
            return count
