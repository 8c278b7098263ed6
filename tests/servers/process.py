"""Real web servers as processes of their own, for tests that must not trust a stand-in.

A ``Server`` is one command line on one loopback port. It can be stopped as an operator would (SIGTERM),
killed as the kernel would (SIGKILL, the whole family at once), and started again on the same port, as a
deploy does.

Four traps shaped this file:

- *Ports.* "Bind port 0, close, use that number" gives a number of the ephemeral range, and a client that
  tries again and again to reach a server which is down can be given that very number as its own source
  port: on loopback it then connects to itself, and the server cannot come back. So ports are taken from
  below that range.
- *Families.* gunicorn and Werkzeug's reloader are several processes. Each server leads a process group of
  its own; its exit is seen without reaping it, so that the group's number cannot have passed to somebody
  else when what is left of the family is killed.
- *Somebody else's server.* A connection that is accepted proves nothing when another process was faster to
  take the port, so a server must also have said in its log that it is up.
- *Logs.* They go to a file, not a pipe: a pipe nobody reads stops the server after 64 KB.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]

#: Below Linux' default ephemeral range (32768-60999), above what is usually in use.
PORTS = range(20000, 32000)

ADDRESS_IN_USE = re.compile(r"address already in use|connection in use|errno 98|errno 48", re.IGNORECASE)


_servers = itertools.count(1)


class ServerError(Exception):
    """A server did not start, did not end, or did not log what it should; the message ends with its log."""


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now (connections in TIME_WAIT do not hinder it)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def free_port() -> int:
    """A random loopback port that nobody listens on at the moment."""
    for _ in range(200):
        if is_free(port := random.choice(PORTS)):
            return port
    raise ServerError(f"no free port found between {PORTS.start} and {PORTS.stop}")


def accepts(port: int) -> bool:
    """Whether something accepts connections on ``port``."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Poll ``condition`` until it is true.

    Raises:
        TimeoutError: It was not within ``timeout`` seconds; ``what`` says what was waited for.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.01)


class Server:
    """One server (with its children) on a port that stays the same over restarts.

    Args:
        name: For messages and the log file.
        command: The command line; ``{port}`` in it is replaced.
        log_path: Where its output goes; a restart appends.
        ready: A regular expression its log must match, beside accepting connections, to count as started.
        env: Variables beside those of the present environment.
        cwd: Its working directory, which is first on its import path too.
        port: A fixed port instead of a random one.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        *,
        ready: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self.exit_code: int | None = None
        self._command = command
        self._log_path = log_path
        self._log_offset = 0
        self._ready = re.compile(ready)
        self._cwd = cwd
        path = os.pathsep.join([str(cwd), str(ROOT)])
        # Servers of one app meet each other, and tests are not to.
        own = {"AFTERLOAD_NAMESPACE": f"test-{os.getpid()}-{next(_servers)}"}
        self._env = {**os.environ, **own, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **(env or {})}
        self._may_move = port is None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its leading process is there."""
        return self._process is not None and not self._has_exited()

    @property
    def pid(self) -> int:
        """Its leading process: gunicorn's arbiter, the reloader's parent."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    def children(self) -> list[int]:
        """The processes its leading process has started: gunicorn's workers, the reloader's app (Linux)."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def log(self) -> str:
        """Everything it has written so far, over all its runs."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def log_of_this_run(self) -> str:
        """What it has written since it was last started."""
        return self.log()[self._log_offset :]

    def wait_log(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until the log of this run matches ``pattern``, and return the match.

        Raises:
            ServerError: It does not within ``timeout`` seconds.
        """
        try:
            wait_until(
                lambda: re.search(pattern, self.log_of_this_run()), timeout, f"{pattern!r} in a server's log"
            )
        except TimeoutError as error:
            raise self._error(str(error)) from None
        match = re.search(pattern, self.log_of_this_run())
        assert match is not None
        return match

    def start(self, timeout: float = 20.0) -> Self:
        """Start it, and return once it accepts connections.

        Raises:
            ServerError: It ended at once, or was not up within ``timeout`` seconds.
        """
        if self._process is not None:
            raise ServerError(f"{self.name} is running already")
        deadline = time.monotonic() + timeout
        while True:
            # What was killed a moment ago may still be letting go of the port.
            wait_until(lambda: is_free(self.port), timeout, f"port {self.port} to become free")
            self._spawn()
            while not self._has_exited() and not ADDRESS_IN_USE.search(self.log_of_this_run()):
                if self._ready.search(self.log_of_this_run()) and accepts(self.port):
                    self._may_move = False
                    return self
                if time.monotonic() > deadline:
                    self.kill()
                    raise self._error(f"was not up after {timeout:g} s")
                time.sleep(0.01)
            self.kill()
            if not ADDRESS_IN_USE.search(self.log_of_this_run()) or time.monotonic() > deadline:
                raise self._error("ended while starting")
            if self._may_move:
                self.port = free_port()

    def stop(self, timeout: float = 10.0, *, sig: signal.Signals = signal.SIGTERM) -> float:
        """Ask its leading process to end, as an operator does; then kill what is left of the family.

        Returns:
            The seconds the leading process took. ``exit_code`` is set too.

        Raises:
            ServerError: It did not end within ``timeout`` seconds, and was killed.
        """
        began = time.monotonic()
        os.kill(self.pid, sig)
        try:
            wait_until(self._has_exited, timeout, f"the end of {self.name} after {sig.name}")
        except TimeoutError as error:
            self.kill()
            raise self._error(f"{error}; it was killed") from None
        took = time.monotonic() - began
        self.kill()
        return took

    def kill(self) -> None:
        """``kill -9`` the whole family, as the kernel's memory killer or a lost machine would."""
        # Not reaped before this, so the group still bears our process's number.
        os.killpg(self.pid, signal.SIGKILL)
        assert self._process is not None
        self.exit_code = self._process.wait()
        self._process = None

    def restart(self, *, kill: bool = False) -> Self:
        """Stop it (or kill it), and start it on the same port."""
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start()

    def signal(self, sig: signal.Signals) -> None:
        """Send ``sig`` to the leading process: SIGHUP makes gunicorn load the app anew."""
        os.kill(self.pid, sig)

    def _spawn(self) -> None:
        command = [part.replace("{port}", str(self.port)) for part in self._command]
        self._log_offset = len(self.log())
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _has_exited(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _error(self, what: str) -> ServerError:
        return ServerError(f"{self.name}: {what}. Its log:\n{self.log_of_this_run()[-8000:] or '(empty)'}")


class Servers:
    """Starts servers, and ends all of them when its ``with`` block ends.

    Args:
        directory: Where the logs go.
        on_start: Called with each server before it is started.
    """

    def __init__(self, directory: Path, *, on_start: Callable[[Server], None] = lambda server: None) -> None:
        self._directory = directory
        self._on_start = on_start
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures = []
        for server in reversed(self._servers):
            if server.running:
                try:
                    server.stop()
                except ServerError as failure:
                    failures.append(failure)
        # A server that does not end when asked is a defect, but not the news where something failed already.
        if failures and error is None:
            raise failures[0]

    def gunicorn(
        self,
        app: str,
        *arguments: str,
        worker_class: str = "gthread",
        workers: int = 1,
        threads: int = 4,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        port: int | None = None,
    ) -> Server:
        """Start gunicorn with ``app`` (``"module:name"``) and further command line ``arguments``.

        It returns once every worker has imported the app; with your own ``--config``, once all are forked.
        """
        command = [sys.executable, "-m", "gunicorn", app, "--bind", HOST + ":{port}"]
        command += ["--worker-class", worker_class, "--workers", str(workers), "--threads", str(threads)]
        # Its control socket has one path a user: two test runs at once would take it from each other.
        command += ["--graceful-timeout", "5", "--keep-alive", "30", "--no-control-socket"]
        said = "Booting worker"
        if not {"-c", "--config"} & set(arguments):
            command += ["--config", "python:tests.servers.gunicorn_conf"]
            said = "Worker ready"
        ready = f"(?s)(?:{said}.*?){{{workers}}}"
        name = f"gunicorn-{worker_class.rsplit('.', 1)[-1]}"
        return self.command(name, [*command, *arguments], ready=ready, env=env, cwd=cwd, port=port)

    def werkzeug(
        self,
        app: str,
        *arguments: str,
        reload: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        port: int | None = None,
    ) -> Server:
        """Start ``flask --app APP run``, with its reloader (two processes) or without."""
        command = [sys.executable, "-m", "flask", "--app", app, "run", "--host", HOST, "--port", "{port}"]
        command += ["--reload" if reload else "--no-reload", *arguments]
        name = "werkzeug-reload" if reload else "werkzeug"
        return self.command(name, command, ready="Running on", env=env, cwd=cwd, port=port)

    def module(
        self,
        module: str,
        *arguments: str,
        ready: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        port: int | None = None,
    ) -> Server:
        """Start ``python -m MODULE ARGUMENTS``; ``{port}`` in an argument is replaced."""
        command = [sys.executable, "-m", module, *arguments]
        return self.command(module, command, ready=ready, env=env, cwd=cwd, port=port)

    def command(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        port: int | None = None,
    ) -> Server:
        """Start any other command line; ``{port}`` in it is replaced."""
        log_path = self._directory / f"{len(self._servers)}-{name}.log"
        server = Server(name, command, log_path, ready=ready, env=env, cwd=cwd, port=port)
        self._servers.append(server)
        self._on_start(server)
        return server.start()
