"""Runs a hub's poller in a thread of this process.

Nothing starts at import or when the hub is made: the thread starts when there is something for it to do. A
forked child has no such thread and must not keep its parent's viewers open, so there the hub is released.

How it ends, and who wins::

    close()        ──▶ in the poller's thread: `bye` to all, thread ends; then, by whoever closes: what was
                       handed over too late gets its `bye` too, everything is closed. A second close() finds
                       nothing to do.
    end of process ──▶ the same, by atexit. Daemon threads still run then, so requests may still come: what
                       they hand over later, they close themselves, as `Hub.closed` says so.
    fork           ──▶ in the child: everything is closed without a word. The parent goes on.
    no end in time ──▶ a thread that is stuck is left alone, and closes everything when it goes on.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref

from ..settings import Settings
from .hub import Hub

_hubs: weakref.WeakSet[HubThread] = weakref.WeakSet()
PAUSE = 0.1  # after a turn that failed as a whole: an error that lasts must not fill the log


class HubThread:
    """A hub with its poller in a daemon thread.

    Attributes:
        hub: the hub.
    """

    def __init__(self, settings: Settings) -> None:
        self.hub = Hub(settings)
        self.hub.poller.on_work = self.start
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stop = False
        self._pid = os.getpid()
        _hubs.add(self)

    @property
    def usable(self) -> bool:
        """Whether this process may use it: it was neither forked from its maker nor closed."""
        return self._pid == os.getpid() and not self.hub.closed

    def start(self) -> None:
        """Starts the thread if it does not run.

        Raises:
            RuntimeError: the system gives no more threads; the next call tries again.
        """
        if not self._needed():
            return
        with self._lock:
            if self._needed():
                self.hub.fanout.descriptors_most = raise_file_limit()
                thread = threading.Thread(target=self._run, name="afterload-hub", daemon=True)
                thread.start()
                self._thread = thread

    def _needed(self) -> bool:
        return self._thread is None and not self._stop and not self.hub.closed

    def _run(self) -> None:
        # Handlers' errors are caught one by one, inside; what comes out is an error of the poller's own.
        self.hub.poller.safely(self._turn)
        while not self._stop:
            time.sleep(PAUSE)
            self.hub.poller.safely(self._turn)
        self._release()  # whoever has closed it may not have waited for that

    def _turn(self) -> None:
        run_once = self.hub.poller.run_once
        while not self._stop:
            run_once()

    def close(self, timeout: float = 2.0) -> None:
        """Says `bye` to every viewer and ends the thread, within `timeout` seconds.

        Args:
            timeout: seconds at most.
        """
        if not self.usable:
            return
        with self._lock:  # a thread that is being started is there afterwards, or never
            thread = self._thread
            if thread is None:
                self._stop = True
        if thread is threading.current_thread():
            self._farewell()
            self.hub.release()
            return
        if thread is not None:
            self.hub.poller.call(self._farewell)
            thread.join(timeout)
            self._stop = True
            if thread.is_alive():
                return
        self._release()

    def _farewell(self) -> None:
        self.hub.say_bye()
        self._stop = True

    def _release(self) -> None:
        """The thread has ended: nobody else turns the poller."""
        with self._lock:
            hub = self.hub
            if hub.closed:
                return
            # First, so that whoever hands over a connection from now on sees that nobody will serve it. Those
            # who did so a moment ago wait among the commands; one turn takes them in, to be sent away.
            hub.closed = True
            hub.poller.safely(hub.poller.run_once, 0)
            hub.poller.safely(hub.say_bye)
            hub.release()


def raise_file_limit() -> float:
    """A viewer is a file descriptor: the soft limit (often 1,024) is raised to the hard one.

    Returns:
        How many there may be.
    """
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or (hard == resource.RLIM_INFINITY and soft != hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass  # a container may forbid it; then the present limit stands
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _in_child() -> None:
    for runner in list(_hubs):
        if not runner.hub.closed:
            runner.hub.release()


def _at_exit() -> None:
    deadline = time.monotonic() + 1.5
    for runner in list(_hubs):
        runner.close(max(0.1, deadline - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
