"""How far something countable has got, how fast it goes, and how long it will yet take.

Pure: who uses it says what time it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import LoopError
from .patch import Patch, attr, value
from .values import short

_MEMORY = 10.0  # seconds: what lies further back counts for less than 1/e


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is.

    Attributes:
        done: how many are done.
        total: of how many; None if that is not known.
        seconds: since the first began.
        rate: how many are done in a second, lately; 0.0 before the first is.
        over: no more will follow.

    Example:
        >>> print(Progress(1200, 5000, 3.9, 310.0))
        1,200 of 5,000 · 310/s · 13 s left
        >>> print(Progress(5000, 5000, 75.0, 66.7, over=True))
        5,000 of 5,000 · 1 min 15 s
    """

    done: int
    total: int | None
    seconds: float
    rate: float
    over: bool = False

    @property
    def left(self) -> float | None:
        """Seconds that it will yet take, if it goes on as lately; None if that cannot be said."""
        if self.total is None or not self.rate:
            return None
        return max(0.0, (self.total - self.done) / self.rate)

    def __str__(self) -> str:
        said = [f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"]
        if self.over:
            said.append(_duration(self.seconds))
        elif self.rate:
            said.append(_per_time(self.rate))
            if self.left is not None:
                said.append(f"{_duration(self.left)} left")
        return " · ".join(said)

    def patches(self, target: str) -> list[Patch]:
        """What brings a ``<progress>`` to it."""
        if self.total is None:
            # Without a value it shows that something goes on; and when nothing does any more, that all is done.
            return [attr(target, "max", 1), value(target, 1) if self.over else attr(target, "value", None)]
        # of nothing everything is done, and a max of 0 is none
        most = max(self.total, 1)
        return [attr(target, "max", most), value(target, self.done if self.total else most)]


class Pace:
    """Counts, and knows how fast it went lately.

    Args:
        total: of how many; None if that is not known.
        now: seconds of any clock that never goes back.

    Raises:
        LoopError: the total is no number from 0.

    Example:
        >>> pace = Pace(100, now=0.0)
        >>> pace.at(50, now=5.0).left
        5.0
    """

    def __init__(self, total: int | None, now: float) -> None:
        if total is not None and (type(total) is not int or total < 0):
            raise LoopError(f"total is a whole number from 0, or None, not {short(total)}")
        self.total = total
        self._began = self._last = now
        self._done = 0
        # Of what was done, and of the time it took, the older parts fade away alike: their ratio is the rate.
        self._faded_done = 0.0
        self._faded_seconds = 0.0

    def at(self, done: int, now: float, *, over: bool = False) -> Progress:
        """How far it is, with so many done at that time; a total that was too small is not known any more."""
        if self.total is not None and done > self.total:
            self.total = None
        seconds = max(0.0, now - self._last)
        kept = math.exp(-seconds / _MEMORY)
        self._faded_done = self._faded_done * kept + done - self._done
        self._faded_seconds = self._faded_seconds * kept + seconds
        self._last, self._done = now, done
        rate = self._faded_done / self._faded_seconds if self._faded_seconds > 0 else 0.0
        return Progress(done, self.total, max(0.0, now - self._began), rate, over)


def _per_time(rate: float) -> str:
    """A rate in the unit that is read best."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if rate * seconds >= 1:
            return f"{_number(rate * seconds)}/{unit}"
    return f"{_number(rate * 3600)}/h"


def _number(count: float) -> str:
    return f"{count:,.0f}" if count >= 10 else f"{count:.1f}".removesuffix(".0")


def _duration(seconds: float) -> str:
    """A time in words, in its two largest units."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"
