"""The servers that are measured, each a real one in a process of its own, and the load put on them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afterload.hub import rendezvous

from .publisher import Http
from .system import HERE, BenchError, Process, listening

# Bytes of one block on the wire, for every server.
BLOCK = 200
# Processes of one namespace share a hub, and no two servers here are to.
_namespaces = (f"bench-{os.getpid()}-{number}" for number in itertools.count(1))


@dataclass
class Server:
    """A running server.

    Attributes:
        pid: the process that sends to viewers.
        workers: those that answer requests, beside it.
        viewers: how many it was given so far.
    """

    port: int
    pid: int
    process: Process
    path: str = "/bench"
    workers: tuple[int, ...] = ()
    viewers: int = 0


@contextlib.contextmanager
def gunicorn(
    app: str, *options: str, workers: int = 1, namespace: str = "", hub: str = "auto"
) -> Iterator[Server]:
    """gunicorn with all its workers ready; the first of them is taken for the one that sends to viewers."""
    command = [sys.executable, "-m", "gunicorn", "-w", str(workers), "--backlog", "4096"]
    command += ["-c", str(HERE / "apps" / "gunicorn_conf.py"), *options, "-b"]
    env = {"BENCH_AFTERLOAD_NAMESPACE": namespace or next(_namespaces), "BENCH_AFTERLOAD_HUB": hub}
    with (
        listening() as (fd, port),
        # not SIGTERM, after which it waits for its worker to serve what it has
        Process([*command, f"fd://{fd}", app], env=env, pass_fds=(fd,), end=signal.SIGQUIT) as process,
    ):
        pids = tuple(int(process.line(20)) for _ in range(workers))
        yield Server(port, pids[0], process, workers=pids[1:])


@contextlib.contextmanager
def hubbed(app: str, *options: str, workers: int) -> Iterator[Server]:
    """gunicorn with a hub process, which is the one that sends to viewers."""
    namespace = next(_namespaces)
    # As one that a worker starts, but it is there before them, and gone with them.
    with Process([sys.executable, "-m", "afterload.hub", namespace]) as hub:
        _wait_for_hub(namespace, hub)
        with gunicorn(app, *options, workers=workers, namespace=namespace, hub="process") as server:
            server.workers = (server.pid, *server.workers)
            server.pid = hub.pid
            yield server


@contextlib.contextmanager
def uvicorn(app: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    command = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--fd"]
    with listening() as (fd, port), Process([*command, str(fd), app], env=env, pass_fds=(fd,)) as process:
        wait(process, port)
        yield Server(port, process.pid, process)


@contextlib.contextmanager
def reference(program: str) -> Iterator[Server]:
    with Process([program]) as process:
        yield Server(int(process.line(5)), process.pid, process)


def _wait_for_hub(namespace: str, hub: Process) -> None:
    until = time.monotonic() + 20
    while namespace not in (name for _, name in rendezvous.present()):
        if hub.child.poll() is not None or time.monotonic() > until:
            raise BenchError(f"the hub process does not begin; stderr: {hub.said()}")
        time.sleep(0.02)


def wait(process: Process, port: int) -> None:
    """Waits for a server that listens to a socket it was given.

    Raises:
        BenchError: it does not answer.
    """
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
