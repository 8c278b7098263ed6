"""What can be wrong with a connection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with a connection; by default nothing. Several may be wrong at once.

    Bytes are counted from the beginning of the connection, and include the heads of requests and answers.

    Attributes:
        cut: the connection ends when exactly so many bytes of the answer have been passed on. 0 is when the first
            of them comes from the server.
        cut_request: the same for bytes of the request.
        cut_after: seconds after which it ends, as with proxies that give a connection only so long.
        reset: it ends by RST, as when a process was killed or a firewall is in between; else by FIN.
        stall: so many bytes of the answer are passed on, and then nothing more, not even its end; it stays open.
        blackhole: nothing is passed on either way, not even an end, and nothing is answered. What a client sends is
            accepted as far as the system's buffers go, as on a line that is dead without a word. A connection that is
            begun meanwhile, and given up, never reaches the server.
        delay: seconds that everything takes on its way, in both directions.
        rate: bytes a second of the answer, at most; with small buffers, so that the server has to wait.
        hold: an answer is not passed on before all of it is there, as by a proxy that buffers: by its
            Content-Length or last chunk, else when the server closes.
        status: each request is answered with this status (and the connection closed), and does not reach the
            server: 502 for what a proxy says while a server is down. Connections that have reached it go on.

    Raises:
        SettingError: a number is negative, or not of its kind; or `status` is no status of HTTP.

    Example:
        >>> Fault(cut=1000, reset=True).cut
        1000
        >>> Fault(rate=0)
        Traceback (most recent call last):
        ...
        afterload.errors.SettingError: rate of a fault is a number above 0, or None, not 0
    """

    cut: int | None = None
    cut_request: int | None = None
    cut_after: float | None = None
    reset: bool = False
    stall: int | None = None
    blackhole: bool = False
    delay: float = 0.0
    rate: float | None = None
    hold: bool = False
    status: int | None = None

    def __post_init__(self) -> None:
        for name in ("cut", "cut_request", "stall"):
            _check(name, getattr(self, name), "a number of bytes from 0, or None", int, lambda n: n >= 0)
        _check("cut_after", self.cut_after, "seconds from 0, or None", float, lambda s: s >= 0)
        _check("rate", self.rate, "a number above 0, or None", float, lambda n: n > 0)
        _check("status", self.status, "a status of HTTP from 200, or None", int, lambda n: 200 <= n <= 599)
        if self.delay is None:
            raise SettingError("delay of a fault is seconds from 0, not None")
        _check("delay", self.delay, "seconds from 0", float, lambda s: s >= 0)
        for name in ("reset", "blackhole", "hold"):
            if type(value := getattr(self, name)) is not bool:
                raise SettingError(f"{name} of a fault is True or False, not {value!r}")


def _check(name: str, value: Any, what: str, kind: type[Any], fits: Callable[[Any], bool]) -> None:
    if value is None:
        return
    kinds = (int, float) if kind is float else (int,)
    if type(value) not in kinds or not fits(value) or value == math.inf:
        raise SettingError(f"{name} of a fault is {what}, not {value!r}")


Plan = Fault | Sequence[Fault | None] | Callable[[int], Fault | None] | None


def checked_plan(plan: Plan) -> Plan:
    """A plan.

    Raises:
        SettingError: it is none.
    """
    if isinstance(plan, Fault | None) or callable(plan):
        return plan
    if isinstance(plan, list | tuple) and all(isinstance(fault, Fault | None) for fault in plan):
        return list(plan)
    raise SettingError(
        f"a plan is a Fault, a list of them, a function that returns one, or None, not {plan!r}"
    )
