"""The few HTTP requests a benchmark makes itself, on one connection for as long as the server keeps it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import time
from collections.abc import Iterator, Sequence

from .system import BenchError

# One count for all publishers, so that on whichever server "has the last value" is a comparison of numbers.
_numbers = itertools.count(1)


class Http:
    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def ask(self, method: str, path: str, body: str | None = None) -> str:
        try:
            return self._ask(method, path, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            self.connection.close()  # it was not kept: once more on a new one
            return self._ask(method, path, body)

    def _ask(self, method: str, path: str, body: str | None) -> str:
        self.connection.request(method, path, body, {"Content-Type": "text/plain"} if body else {})
        answer = self.connection.getresponse()
        text = answer.read().decode()
        if answer.status // 100 != 2:
            raise RuntimeError(f"{method} {path} was answered {answer.status}: {text[:200]}")
        return text

    def close(self) -> None:
        self.connection.close()


@contextlib.contextmanager
def to_each(port: int, pids: Sequence[int], timeout: float = 30.0) -> Iterator[list[Http]]:
    """A connection to each of the processes that answer at a port, in their order. The server has to keep them open.

    Raises:
        BenchError: one of them takes none.
    """
    with contextlib.ExitStack() as stack:
        found: dict[int, Http] = {}
        until = time.monotonic() + timeout
        while missing := set(pids) - found.keys():
            if time.monotonic() > until:
                raise BenchError(f"of {len(pids)} workers, {len(missing)} take no connection")
            # Several at once, as the kernel may give those that come one by one to the same process.
            tried = [stack.enter_context(contextlib.closing(Http(port))) for _ in pids]
            for one in tried:
                one.connection.connect()
            for one in tried:
                found.setdefault(int(one.ask("GET", "/pid")), one)
        yield [found[pid] for pid in pids]


class Publisher:
    """Posts values of a fixed size, each with its time and number.

    Args:
        path: where to.
        size: of a value.
        connections: to publish by in turns.
    """

    def __init__(
        self, port: int, size: int, path: str = "/publish", connections: Sequence[Http] = ()
    ) -> None:
        self.connections = connections or [Http(port)]
        self.path = path
        self.size = size
        self.published = 0
        self.late = 0

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def publish(self) -> int:
        """Publishes one value; its number."""
        number = next(_numbers)
        value = f"@{time.monotonic_ns()}:{number}@"
        to = self.connections[self.published % len(self.connections)]
        to.ask("POST", self.path, value.ljust(self.size, "x"))
        self.published += 1
        return number

    def run(self, rounds: int, interval: float) -> int:
        """Publishes every `interval` seconds; the number of the last. Those a whole interval late are counted."""
        number, due = 0, time.monotonic()
        for _ in range(rounds):
            number = self.publish()
            due += interval
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            elif -wait > interval:
                self.late += 1
                due = time.monotonic()  # a server that is behind is not asked for all of it at once
        return number
