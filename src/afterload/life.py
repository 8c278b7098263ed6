"""What an app has in this process: its hub, its loops, and where its shared channels are; from first need to end.

It begins anew in a forked child, and after `close`.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from . import handover
from .errors import LoopError
from .hub.hub import Hub
from .hub.meeting import Meeting, new_member
from .hub.thread import HubThread
from .loops import Loops, SharedLoop
from .runs import Stopped
from .seldom import Seldom
from .settings import Settings
from .snapshot import SnapshotSource

logger = logging.getLogger("afterload")

_LOADED = 60.0  # seconds that a forked process may take to become a worker
_LOOKS = 0.05  # seconds between two looks at whether the server has loaded the app
_LOOK = 0.5  # seconds between two looks at whether the server is ending


class Life:
    """The hub and the loops of an app in this process, and what it defines for them.

    Args:
        settings: see `afterload.settings.Settings`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._definitions: dict[str, SharedLoop] = {}
        self._sources: dict[str, SnapshotSource] = {}
        self._handlers: list[Callable[[str, BaseException], None]] = []
        self._turned_away = Seldom()
        self.sent_away = Seldom()
        self._lock = threading.Lock()
        self._thread: HubThread | None = None
        self._loops: Loops | None = None
        self._meeting: Meeting | None = None
        self._closing = False
        self._looked_after: HubThread | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        _lives.add(self)

    @property
    def hub(self) -> Hub:
        """This process's hub; made when first needed, and again in a forked child and after `close`."""
        return self._alive().hub

    @property
    def loops(self) -> Loops:
        """This process's loops; made together with `hub`."""
        self._alive()
        assert self._loops is not None
        return self._loops

    @property
    def meeting(self) -> Meeting:
        """Where the shared channels are; made together with `hub`."""
        self._alive()
        assert self._meeting is not None
        return self._meeting

    @property
    def is_elsewhere(self) -> bool:
        """Whether the shared channels are another process's."""
        return self.meeting.is_elsewhere

    @property
    def namespace(self) -> str:
        """Whose channels these are; "" for nobody's but this process's."""
        return self.settings.namespace

    def _alive(self) -> HubThread:
        thread = self._thread
        if thread is None or not (thread.usable or self._closing):
            with self._lock:
                thread = self._thread
                if thread is None or not thread.usable:
                    thread = self._begin()
        return thread

    def _begin(self) -> HubThread:
        thread = HubThread(self.settings)
        # Weak: a running hub must not keep an app that is dropped, as by tests that make one each.
        step_context = weakref.WeakMethod(self.step_context)
        member = new_member()
        refused = weakref.WeakMethod(self._refused)
        loops = Loops(
            thread.hub,
            self.settings,
            lambda: _called(step_context),
            self._definitions,
            member,
            lambda name, error: _tell(refused, name, error),
        )
        loops.handlers = self._handlers
        for loop in self._definitions.values():
            loops.define(loop)
        meeting = Meeting(
            thread, self.settings, self.namespace, member, loops, lambda: bool(handover.stopping())
        )
        loops.whereabouts = meeting
        several = handover.worker()
        if several is not None:
            meeting.expect(several)
        if self._finalizer is not None:
            self._finalizer.detach()  # that life is over, and not to be remembered
        self._finalizer = weakref.finalize(self, _dropped, thread, loops, meeting)
        self._finalizer.atexit = False  # at exit the thread sees to itself
        # In this order: who sees the new hub must not be given the loops of the one before.
        self._loops = loops
        self._meeting = meeting
        self._thread = thread
        return thread

    def serve(self, several: bool) -> None:
        """This process answers requests, so it finds its hub; called for each request, before anything else.

        Args:
            several: the server runs several processes, or will end this one before long.
        """
        meeting = self.meeting
        if not meeting.is_serving:
            meeting.serve(several)
            self._look_after()

    def attend(self) -> None:
        """Finds the hub before the first request, where this process is known to be one that will answer some.

        Pages that are open send no requests when a server is started anew, and their loops are to run.
        """
        if handover.worker() is not None or handover.is_forking():
            threading.Thread(
                target=_attend, args=(weakref.ref(self),), name="afterload-attend", daemon=True
            ).start()

    def _is_ready(self) -> bool:
        """Whether there is an app."""
        return True

    def _look_after(self) -> None:
        """Looks, from now on, whether the server ends: what it would take along is said good-bye to in time.

        A gunicorn worker that was told to end answers what it has begun, for up to `graceful_timeout`. The next
        one works already, and what is published there would not reach viewers that stay here.
        """
        if handover.stopping() is None or self._looked_after is self._thread:
            return
        self._looked_after = self._thread
        hub, loops, meeting = self.hub, self.loops, self.meeting

        def look() -> None:
            if handover.stopping():
                loops.lose_jobs()
                hub.poller.call(hub.say_bye)  # behind the ends of the jobs
                # not here: it may have to wait, and the poller must not
                threading.Thread(target=meeting.leave, name="afterload-leave", daemon=True).start()
            else:
                hub.later(_LOOK, look)

        hub.later(_LOOK, look)

    def step_context(self) -> AbstractContextManager[Any]:
        """The context each step of a loop runs in; an adapter gives its own."""
        return nullcontext()

    def close(self, timeout: float = 1.0) -> None:
        """Ends all loops and says `bye` to every viewer, as at the end of the process.

        What is asked for afterwards begins a new life: pages that come back heal as after a restart.

        Args:
            timeout: seconds at most.
        """
        thread, loops = self._thread, self._loops
        if thread is None or loops is None or not thread.usable:
            return
        deadline = time.monotonic() + timeout
        meeting = self._meeting
        self._closing = True  # a loop that publishes meanwhile must not begin a new life
        try:
            if meeting is not None:
                meeting.leave()
            thread.close(timeout / 2)
            loops.close(deadline - time.monotonic())
            if meeting is not None:
                meeting.close()  # last: a loop may publish while it cleans up
        finally:
            self._closing = False

    def _refused(self, name: str, error: LoopError) -> None:
        """A shared loop was not started here."""
        if self.is_elsewhere:
            logger.info(
                "afterload: the loop %r was not started here, and another process is asked: %s", name, error
            )
        else:
            self._full(name, error)

    def _full(self, label: str, error: LoopError) -> None:
        """A loop was not started: its viewer gets what there is and `bye`, and asks again later."""
        self.hub.count("loops_refused")
        if count := self._turned_away.count():
            logger.warning(
                "afterload: the loop %r was not started: %s. Its pages ask again every %.1f s or so "
                "(refused since the last such record: %d)",
                label,
                error,
                self.settings.short_retry / 1000,
                count,
            )


def _called(reference: weakref.WeakMethod[Callable[[], AbstractContextManager[Any]]]) -> Any:
    method = reference()
    if method is None:
        raise Stopped  # nobody is left to whom this loop could be of use
    return method()


def _tell(reference: weakref.WeakMethod[Any], name: str, error: LoopError) -> None:
    method = reference()
    if method is not None:
        method(name, error)


def _dropped(thread: HubThread, loops: Loops, meeting: Meeting) -> None:
    """A `Life` is gone without `close`; runs in the garbage collector, where nothing may be waited for."""
    meeting.close()
    if thread._thread is None:
        thread.close(0)
        return

    def end() -> None:
        thread.close()
        loops.close()

    if thread.usable:
        thread.hub.poller.call(end)


_lives: weakref.WeakSet[Life] = weakref.WeakSet()


def _in_child() -> None:
    # The parent's lock may have been held by a thread that the child does not have.
    for live in list(_lives):
        live._lock = threading.Lock()
        live._closing = False
        live._turned_away, live.sent_away = Seldom(), Seldom()
        for source in live._sources.values():
            source.renew()
        if live._meeting is not None:
            live._meeting.release()
        if handover.is_forking() and live._is_ready():
            live.attend()


def _attend(reference: weakref.ref[Life]) -> None:
    """Has an app serve once its worker has loaded it: a loop must not run while its module does."""
    began = time.monotonic()
    while (live := reference()) is not None and (handover.worker() is None or not handover.is_loaded()):
        del live
        if handover.worker() is None and time.monotonic() - began > _LOADED:
            return  # it is no worker: the master forks others too
        time.sleep(_LOOKS)
    if live is not None:
        live.serve(bool(handover.worker()))


def _at_exit() -> None:
    deadline = time.monotonic() + 1.5
    for live in list(_lives):
        live.close(max(0.1, deadline - time.monotonic()))


# Behind that of `hub.thread`, so it runs before: loops clean up, and then the hub ends.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
