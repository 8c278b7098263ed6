"""Tills: they order without an end, several at a time, and keep what was acknowledged and what was not."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from tests.servers.process import HOST

STATIONS = ("bar", "kitchen")
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}


@dataclass(frozen=True)
class Order:
    """One request, and how it ended.

    Attributes:
        mark: what was ordered; no two are alike.
        position: what `live.publish` returned; "" if it was not acknowledged.
        why: it was not.
        asked, took: clock time, and seconds.
    """

    mark: str
    channel: str
    position: str
    why: str
    asked: float
    took: float


@dataclass
class Tills:
    """Threads that order until the ``with`` block ends, or `close`.

    Args:
        port: of the server.
        count: of threads, so that as many orders are under way at once.
        pause: seconds between two orders of one of them, about.
    """

    port: int
    count: int
    pause: float
    orders: list[Order] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(self.count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def acknowledged(self) -> list[Order]:
        return [order for order in self.orders if order.position]

    @property
    def refused(self) -> list[Order]:
        return [order for order in self.orders if not order.position]

    def _run(self, number: int) -> None:
        for n in itertools.count(1):
            if self._over.wait(self.pause * random.uniform(0.5, 1.5)):
                return
            self.orders.append(self._order(f"o{number}-{n}", STATIONS[n % 2]))

    def _order(self, mark: str, station: str) -> Order:
        asked = time.monotonic()
        position = why = ""
        line = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            line.request("POST", "/", urlencode({"thing": mark, "station": station}), FORM)
            answer = line.getresponse()
            answer.read()
            position = answer.headers.get("Position", "")
            why = "" if position else f"status {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            why = type(error).__name__
        finally:
            line.close()
        return Order(mark, station, position, why, asked, time.monotonic() - asked)
