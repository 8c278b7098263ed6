"""What the tests of the commands that speak to a hub share: a hub by hand, and the commands as processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afterload.hub import rendezvous
from tests.servers.process import wait_until

_numbers = itertools.count(1)


def new_namespace() -> str:
    """One that nobody else has."""
    return f"test-cli-{os.getpid()}-{next(_numbers)}"


def environment(**variables: str) -> dict[str, str]:
    """That of a shell, in which no namespace is named unless it is here."""
    inherited = {name: value for name, value in os.environ.items() if name != "AFTERLOAD_NAMESPACE"}
    return {**inherited, **variables}


def afterload(
    *arguments: str, stdin: bytes | None = None, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "afterload.cli", *arguments],
        input=stdin or b"",
        capture_output=True,
        check=False,
        timeout=50,
        cwd=cwd,
        env=environment(**variables),
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Hub:
    """``afterload hub``, started; in its place when `wait` returns."""

    def __init__(self, log: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "afterload.cli", "hub", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=cwd,
                env=environment(**variables),
            )

    def log(self) -> str:
        return self._log.read_text()

    def wait(self, said: str = "is process") -> Hub:
        wait_until(lambda: said in self.log() or self.process.poll() is not None, 20, f"{said!r} of the hub")
        assert said in self.log(), self.log()
        return self

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@contextmanager
def running(log: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> Iterator[Hub]:
    """A hub that runs, and is ended."""
    hub = Hub(log, *arguments, cwd=cwd, **variables)
    try:
        yield hub.wait()
    finally:
        hub.process.kill()
        hub.process.wait()


def table(path: Path, *present: tuple[int, str]) -> Path:
    """What the system says of the sockets that there are, if these were all hubs; see `rendezvous.present`."""
    rows = [f"0000: 00000002 00000000 00010000 0001 01 1234 @afterload/{uid}/{name}" for uid, name in present]
    path.write_text("\n".join(["Num RefCount Protocol Flags Type St Inode Path", *rows, ""]))
    return path


def is_there(namespace: str) -> bool:
    """Whether a hub of this user has its place."""
    return (os.geteuid(), namespace) in rendezvous.present()
