"""Rooms for the deployments that the how-tos describe, made with bubblewrap: no Docker, no systemd, no root.

A ``Pod`` is a network of its own, as containers have: the ports and names in a how-to are used as they stand, and two
test runs at once do not meet. Into it go processes, each in a ``Sandbox``: file system, user and process numbers of its
own, as its unit or its image says. Nothing of a pod is left when it is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.servers.process import HOST, ROOT, wait_until


class Closes(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closes)
PATIENCE = 20.0
#: What Python needs wherever the sandbox hides the rest: the environment, what it was made from, and this tree.
PYTHON = tuple(dict.fromkeys([ROOT, Path(sys.prefix), Path(sys.base_prefix)]))


def installed(tool: str, package: str) -> str:
    """The path of a program; the test is skipped where it is missing (in CI, it fails)."""
    found = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{tool} is missing (Debian: {package})")
    return found


def bubblewrap() -> str:
    """The path of the program that makes sandboxes, where it may make them; elsewhere the test is skipped."""
    found = installed("bwrap", "bubblewrap")
    tried = subprocess.run(
        [found, "--unshare-user", "--unshare-net", "--unshare-pid", "--ro-bind", "/", "/", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if tried.returncode:
        pytest.skip(f"bubblewrap may make no namespaces here: {tried.stderr}")
    return found


@dataclass(frozen=True)
class Sandbox:
    """What one process is given.

    Attributes:
        command: its command line.
        mounts: bubblewrap's arguments that make its file system.
        env: all of its environment.
        uid: its user, and group.
        folder: where it is started.
        first: whether it is process 1 itself, and not a child of an init.
        most_files: how many descriptors it may have; 0 for as many as there may be here.
    """

    command: Sequence[str]
    mounts: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0
    folder: str = "/"
    first: bool = False
    most_files: int = 0


class Running:
    """A process in its sandbox.

    Attributes:
        pid: its number on this host.
    """

    def __init__(self, process: subprocess.Popen[bytes], init: int, log: Path, *, first: bool) -> None:
        self._process = process
        self._init = init
        self._log = log
        self.pid = init
        if not first:
            wait_until(lambda: self.children(init) or process.poll() is not None, PATIENCE, "a process")
            self.pid = next(iter(self.children(init)), 0)

    @staticmethod
    def children(pid: int) -> list[int]:
        """The processes that a process has started."""
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    @property
    def workers(self) -> list[int]:
        """gunicorn's; a hub that one of them has started is not one of its children."""
        return [pid for pid in self.children(self.pid) if b"afterload.hub" not in cmdline(pid)]

    @property
    def hubs(self) -> list[int]:
        """The hub processes in the same sandbox."""
        return [pid for pid in descendants(self._init) if is_hub(pid)]

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_log(self, pattern: str) -> None:
        """Wait until its output matches a pattern."""
        wait_until(lambda: self.over or re.search(pattern, self.log()), PATIENCE, f"{pattern!r} in a log")
        assert re.search(pattern, self.log()), self.log()

    def signal(self, sig: signal.Signals) -> None:
        assert not self.over, self.log()  # its number may be another's by now
        os.kill(self.pid, sig)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Ask it to end; its exit status, or 128 and the number of the signal that ended it."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end, with which all that it has started is gone too."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout:g} s. Its log:\n{self.log()}") from None

    def kill(self) -> None:
        """End it and all that it has started at once."""
        if not self.over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        self._process.wait()


class Pod:
    """A network of its own, whose ports can be reached from here.

    Args:
        folder: for logs and whatever a sandbox needs.
        ports: inside, that are to be reached.
    """

    def __init__(self, folder: Path, *ports: int) -> None:
        self.folder = folder
        self.running: list[Running] = []
        self._kept: list[Closes] = []
        self._bwrap = bubblewrap()
        self._nsenter = installed("nsenter", "util-linux")
        self._listeners = {port: socket.create_server((HOST, 0), backlog=512) for port in ports}
        pairs = [str(part) for port, sock in self._listeners.items() for part in (sock.fileno(), port)]
        network = ["--unshare-user", "--unshare-net", "--uid", "0", "--gid", "0", "--dev-bind", "/", "/"]
        command = [sys.executable, "-m", "tests.deploy.published", *pairs]
        fds = [sock.fileno() for sock in self._listeners.values()]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._publisher = self._start([self._bwrap], [*network, "--", *command], env, fds)
        try:
            self._publisher.wait_log("published")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for running in reversed([self._publisher, *self.running]):
            running.kill()
        for thing in (*self._kept, *self._listeners.values()):
            thing.close()

    def keep(self, thing: C) -> C:
        """Have something closed with the pod."""
        self._kept.append(thing)
        return thing

    def where(self, port: int) -> tuple[str, int]:
        """Where a port of the pod is reached from here."""
        address: tuple[str, int] = self._listeners[port].getsockname()
        return address

    def start(self, sandbox: Sandbox) -> Running:
        """Have a process run until it ends, or the pod is closed."""
        running = self._start(self._entered(), self._options(sandbox), sandbox.env, first=sandbox.first)
        self.running.append(running)
        return running

    def run(self, sandbox: Sandbox, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Have a process run to its end; what it has written, and its exit status."""
        command = [*self._entered(), *self._options(sandbox)]
        return subprocess.run(
            command, env=sandbox.env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def log(self) -> str:
        return "\n".join(f"--- {running.pid}\n{running.log()}" for running in self.running)

    def _entered(self) -> list[str]:
        inside = ["--target", str(self._publisher.pid), "--user", "--net", "--preserve-credentials"]
        return [self._nsenter, *inside, "--", self._bwrap]

    def _options(self, sandbox: Sandbox) -> list[str]:
        options = ["--unshare-pid", "--unshare-user", "--unshare-ipc", "--unshare-uts", *sandbox.mounts]
        options += ["--uid", str(sandbox.uid), "--gid", str(sandbox.uid), "--chdir", sandbox.folder]
        limit = []
        if sandbox.most_files:
            limit = ["/usr/bin/prlimit", f"--nofile={sandbox.most_files}", "--"]
        return [*options, *(["--as-pid-1"] if sandbox.first else []), "--", *limit, *sandbox.command]

    def _start(
        self,
        how: Sequence[str],
        options: Sequence[str],
        env: Mapping[str, str],
        fds: Sequence[int] = (),
        *,
        first: bool = True,
    ) -> Running:
        handle, name = tempfile.mkstemp(suffix=".log", dir=self.folder)
        told, tells = os.pipe()
        try:
            with open(handle, "wb") as log:
                process = subprocess.Popen(
                    [*how, "--die-with-parent", "--info-fd", str(tells), *options],
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[tells, *fds],
                    start_new_session=True,
                )
            os.close(tells)
            with open(told, "rb") as said:
                info: dict[str, Any] = json.loads(said.read() or b"{}")
        except ValueError as error:
            raise AssertionError(f"{error}: {Path(name).read_text()}") from error
        if "child-pid" not in info:
            process.wait()
            raise AssertionError(f"bubblewrap has started nothing: {Path(name).read_text()}")
        return Running(process, info["child-pid"], Path(name), first=first)


def descendants(pid: int) -> list[int]:
    """All that a process has started, and those have."""
    found = Running.children(pid)
    return found + [below for child in found for below in descendants(child)]


def is_hub(pid: int) -> bool:
    """Of two that are started at once, the one that finds the place taken ends before it is called so."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return name == "afterload-hub\n" and b"afterload.hub" in cmdline(pid)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
