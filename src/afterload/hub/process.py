"""A hub as a process of its own: how one is started, and what it does.

It is started by the first process of an app that needs it, or by hand (``afterload hub``), and belongs to nobody: a
session of its own, no descriptor of its maker's, no parent that would have to wait for it. Two that are started at once
do no harm: one of them has the place (`afterload.hub.rendezvous`), and the other ends.

How it ends::

    SIGTERM, SIGINT             ──▶ `bye` to all viewers, exit status 0
    ``afterload hub`` is run    ──▶ the same, if an app has started it: the other one has the place
    no process for `hub_idle`   ──▶ the same, if an app has started it
    an error of the poller's    ──▶ logged; it goes on
    killed                      ──▶ its processes see the end of their connections, and one of them starts another

Its exit status is 0 or 1. Where gunicorn is the first process of a container, orphans are its children, and it reads 3
and 4 as words of its workers (https://github.com/benoitc/gunicorn/blob/23.0.0/gunicorn/arbiter.py, HaltServer).
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import nullcontext
from pathlib import Path

import markupsafe

from .. import errors
from ..errors import HubError
from ..settings import Settings
from . import rendezvous
from .calls import Calls
from .control import Control
from .hub import Hub
from .thread import PAUSE, raise_file_limit

logger = logging.getLogger("afterload.hub")

_READY, _TAKEN = b"ready\n", b"taken\n"
_STARTING = ":starting"
_RECORD_WAITING = 1_000_000  # bytes that a process may have unread before it is told no more records
# Of the environment: it lives longer than its maker, and has no use for the secrets of an app.
_GIVEN = ("PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHON", "VIRTUAL_ENV")
_PR_SET_NAME = 15
_STARTS = 15.0  # seconds that one may take to be there
_GOES = 3.0  # seconds that a hub which makes way may take
_WAIT = 0.5  # seconds between two tries to have the place


def start(namespace: str, idle: float, *, anyway: bool = False) -> bool:
    """Starts a hub process, unless one is there or is being started.

    Args:
        namespace: whose.
        idle: seconds until it ends when no process of an app is there.
        anyway: another process seemed to start one, and has not for long.

    Returns:
        Whether there is one now; if not, another process is about to start it.

    Raises:
        HubError: it does not start.
    """
    # A courtesy: two that are started at once do no harm, and anybody on the host may hold this.
    starting = rendezvous.bind(namespace, _STARTING)
    if starting is None and not anyway:
        return False
    with starting or nullcontext():
        command = [_python(), "-P", "-m", "afterload.hub", namespace, "--idle", str(idle), "--detach"]
        environment = {k: v for k, v in os.environ.items() if k.startswith(_GIVEN)}
        environment["PYTHONPATH"] = os.pathsep.join(_path())
        try:
            made = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise HubError(f"no hub process could be started: {error}", namespace=namespace) from error
        said = _said(made)
    if not said.endswith((_READY, _TAKEN)):
        text = said.decode("utf-8", "replace").strip() or "it says nothing"
        raise HubError(f"the hub process does not start: {text}", namespace=namespace)
    return True


def _said(made: subprocess.Popen[bytes]) -> bytes:
    """What a hub process says while it starts: its last word, or what is wrong; one that says neither is ended."""
    assert made.stdout is not None
    said, deadline = b"", time.monotonic() + _STARTS
    waiting = select.poll()
    waiting.register(made.stdout, select.POLLIN)
    with made.stdout:
        # Not to the end: a fork of the app at this moment has the other end open as well.
        while not said.endswith((_READY, _TAKEN)):
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                os.killpg(made.pid, signal.SIGKILL)
                said += f"it is not ready after {_STARTS:g} s".encode()
                break
            data = os.read(made.stdout.fileno(), 65_536)
            said += data
            if not data:
                break
    made.wait()
    return said


def _python() -> str:
    """The interpreter. Inside of a server that embeds it, `sys.executable` is that server."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (
        sys.executable,
        f"{sys.exec_prefix}/bin/{version}",
        f"{sys.exec_prefix}/bin/python3",
        f"{sys.base_exec_prefix}/bin/{version}",
    ):
        if Path(found or "-").name.startswith(("python", "pypy")) and os.access(found, os.X_OK):
            return found
    return version


def _path() -> list[str]:
    """Folders that the interpreter does not find by itself.

    Not all of this process's: what is in an app's folder, or a package that was once for older Pythons, would come
    before the standard library.
    """
    needed = {str(Path(str(module.__file__)).resolve().parents[1]) for module in (errors, markupsafe)}
    known = {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(needed - {str(Path(folder).resolve()) for folder in known})


def run(namespace: str, settings: Settings, *, idle: float | None, detach: bool) -> int:
    """Is the hub of a namespace until it ends.

    Args:
        namespace: whose.
        settings: bounds and durations until the first app comes, and brings its own.
        idle: seconds until it ends when no process of an app is there; None for never.
        detach: it is started by a process that waits for nothing but the word that it is there.

    Returns:
        The exit status.
    """
    if detach and os.fork():
        os._exit(0)  # the maker has not to wait for the hub
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    listener = rendezvous.bind(namespace) if detach else _place(namespace)
    if listener is None:
        _tell(_TAKEN)
        return 0
    _name_process()
    hub = Hub(settings)
    hub.fanout.descriptors_most = raise_file_limit()
    control = Control(hub, listener, namespace, "process")
    ends = _Ends(hub, control, idle, detach)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: hub.poller.call(ends.end))
    if detach:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        control.make_way = ends.make_way
        _pass_records_on(control)
        _tell(_READY)
    _notify(b"READY=1")
    logger.info("afterload: the hub of namespace %r is process %d", namespace, os.getpid())

    def turn() -> None:
        while not ends.ended:
            hub.poller.run_once()

    hub.poller.safely(turn)
    while not ends.ended:
        time.sleep(PAUSE)
        hub.poller.safely(turn)
    hub.release()
    return 0


def _place(namespace: str) -> socket.socket:
    """The place of a namespace, for a hub that is run by hand: one that an app has started makes way for it."""
    said = False
    while True:
        starting = rendezvous.bind(namespace, _STARTING)  # the processes of an app start none meanwhile
        try:
            deadline = time.monotonic() + (_GOES if _makes_way(namespace) else 0)
            while True:
                listener = rendezvous.bind(namespace)
                if listener is not None:
                    return listener
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        finally:
            if starting is not None:
                starting.close()
        if not said:
            said = True
            logger.warning(
                "afterload: there is a hub of namespace %r; this one waits for its place", namespace
            )
        time.sleep(_WAIT)


def _makes_way(namespace: str) -> bool:
    calls = Calls(namespace, _GOES)
    try:
        return bool(calls.call("make way"))
    except HubError:
        return False
    finally:
        calls.end()


def _notify(word: bytes) -> None:
    """Tells systemd (Type=notify), where it asks to be told.

    https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(word, "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            logger.warning("afterload: systemd could not be told that the hub is ready: %s", error)


class _Ends:
    """When a hub process ends."""

    def __init__(self, hub: Hub, control: Control, idle: float | None, by_an_app: bool) -> None:
        self.ended = False
        self._hub = hub
        self._control = control
        self._idle = idle
        self._round = 0
        if idle is not None:
            control.emptied = self._emptied
            if by_an_app:
                control.entered = self._entered
            self._emptied()

    def end(self) -> None:
        self._control.say_that_it_ends()
        self._hub.say_bye()
        self.ended = True

    def make_way(self) -> bool:
        self._hub.poller.call(self.end)
        return True

    def _entered(self) -> None:
        self._idle = self._hub.settings.hub_idle

    def _emptied(self) -> None:
        assert self._idle is not None
        self._round += 1
        this = self._round
        self._hub.later(self._idle, lambda: self._look(this))

    def _look(self, this: int) -> None:
        if this == self._round and not self._control.members:
            logger.info("afterload: no process of the app has been here for %g s: the hub ends", self._idle)
            self.end()


class _Records(logging.Handler):
    """Passes the hub's log records on to the log of a process that is there."""

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        for connection in list(self._control.members.values()):
            wanted = connection.levels.get(record.name, logging.WARNING)
            if record.levelno >= wanted and connection.unsent < _RECORD_WAITING:
                said = {"name": record.name, "level": record.levelno, "text": self.format(record)}
                connection.say({"say": "record", **said})
                return


def _pass_records_on(control: Control) -> None:
    root = logging.getLogger("afterload")
    root.addHandler(_Records(control))
    root.propagate = False
    # Which records are wanted is for the process to say that gets them.
    root.setLevel(logging.DEBUG)


def _tell(word: bytes) -> None:
    """Says to the maker how it went, and lets go of it."""
    sys.stdout.flush()
    os.write(1, word)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _name_process() -> None:
    """What `ps` and `top` show as its command, beside the arguments."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"afterload-hub", 0, 0, 0)
    except (OSError, AttributeError):
        pass
