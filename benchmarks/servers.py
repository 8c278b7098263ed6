"""The servers that are measured, each a real one in a process of its own, and the load put on them."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .publisher import Http
from .system import BenchError, Process, children, listening

# Bytes of one block on the wire, for every server.
BLOCK = 200


@dataclass
class Server:
    """A running server.

    Attributes:
        pid: the process that does the work.
        viewers: how many it was given so far.
    """

    port: int
    pid: int
    process: Process
    path: str = "/bench"
    viewers: int = 0


@contextlib.contextmanager
def gunicorn(app: str, *options: str) -> Iterator[Server]:
    """gunicorn with one worker."""
    command = [sys.executable, "-m", "gunicorn", "-w", "1", "--backlog", "4096", *options, "-b"]
    with (
        listening() as (fd, port),
        # not SIGTERM, after which it waits for its worker to serve what it has
        Process([*command, f"fd://{fd}", app], pass_fds=(fd,), end=signal.SIGQUIT) as process,
    ):
        _wait(process, port)
        workers = children(process.pid)
        if len(workers) != 1:
            raise BenchError(f"gunicorn has {len(workers)} children instead of one worker")
        yield Server(port, workers[0], process)


@contextlib.contextmanager
def uvicorn(app: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    command = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--fd"]
    with listening() as (fd, port), Process([*command, str(fd), app], env=env, pass_fds=(fd,)) as process:
        _wait(process, port)
        yield Server(port, process.pid, process)


@contextlib.contextmanager
def reference(program: str) -> Iterator[Server]:
    with Process([program]) as process:
        yield Server(int(process.line(5)), process.pid, process)


def _wait(process: Process, port: int) -> None:
    # The socket listens before the server does, so the first request just waits for it.
    http = Http(port, timeout=20)
    try:
        http.ask("GET", "/plain")
    except OSError as error:
        raise BenchError(f"{process.name} does not answer: {error}; stderr: {process.said()}") from None
    finally:
        http.close()


class Load:
    """The load generator and what it has counted."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready = self._answer(90)

    def mark(self) -> None:
        self.process.tell("mark")
        self._answer(20)

    def report(self) -> dict[str, Any]:
        self.process.tell("report")
        return self._answer(20)

    def reached(self, number: int, timeout: float) -> dict[str, Any]:
        """The report once every viewer has the value with that number, or after `timeout` seconds."""
        until = time.monotonic() + timeout
        while (report := self.report())["last"] < number and time.monotonic() < until:
            time.sleep(0.02)
        return report

    def _answer(self, timeout: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.process.line(timeout))
        return answer


@contextlib.contextmanager
def load(
    program: Path | str, server: Server, viewers: int, *, window: int = 200, stalled: int = 0
) -> Iterator[Load]:
    """Holds `viewers` viewers of a server."""
    command = [str(program), str(server.port), server.path, str(viewers), str(window), str(stalled)]
    with Process(command) as process:
        yield Load(process)
