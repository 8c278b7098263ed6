"""Runs a hub's poller in a thread of this process.

Nothing starts at import or when the hub is made: the thread starts when there is something for it to do. A
forked child has no such thread and must not keep its parent's viewers open, so there the hub is released.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref

from ..settings import Settings
from .hub import Hub

_hubs: weakref.WeakSet[HubThread] = weakref.WeakSet()


class HubThread:
    """A hub with its poller in a daemon thread.

    Attributes:
        hub: the hub.
    """

    def __init__(self, settings: Settings) -> None:
        self.hub = Hub(settings)
        self.hub.poller.on_work = self.start
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stop = False
        self._pid = os.getpid()
        _hubs.add(self)

    @property
    def usable(self) -> bool:
        """Whether this process may use it: it was neither forked from its maker nor closed."""
        return self._pid == os.getpid() and not self.hub.closed

    def start(self) -> None:
        """Starts the thread if it does not run."""
        if self._thread is not None or self.hub.closed:
            return
        with self._starting:
            if self._thread is None:
                _raise_file_limit()
                self._thread = threading.Thread(target=self._run, name="afterload-hub", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        hub = self.hub
        while not self._stop:
            hub.poller.run_once()

    def close(self, timeout: float = 2.0) -> None:
        """Says `bye` to every viewer and ends the thread, within `timeout` seconds."""
        if not self.usable:
            return
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            self._stop = True
            self.hub.release()
            return

        def farewell() -> None:
            self.hub.say_bye()
            self._stop = True

        self.hub.poller.call(farewell)
        thread.join(timeout)
        self._stop = True
        if not thread.is_alive():
            self.hub.release()


def _raise_file_limit() -> None:
    """A viewer is a file descriptor: the soft limit (often 1,024) is raised to the hard one."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or (hard == resource.RLIM_INFINITY and soft != hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass  # a container may forbid it; then the present limit stands


def _in_child() -> None:
    for runner in list(_hubs):
        if not runner.hub.closed:
            runner.hub.release()


def _at_exit() -> None:
    for runner in list(_hubs):
        runner.close(timeout=1.0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
