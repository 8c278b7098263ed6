"""Which hub has the shared channels of a process: its own, or another process's.

::

    alone ──answers requests, nobody has the place──▶ host: other processes come to the hub of this one
      │  └──somebody has it, or a hub process is wanted──▶ client: of the hub that is there ──it ends──▶ lost
      └──publishes only (a cron job): client where there is a hub, else alone                             │
                                             host or client, as before ◀──somebody has the place again────┘

A process that answers requests looks for another hub by itself when it has lost one; one that only publishes does so
when it has something to publish. While there is none, who publishes waits, `publish_timeout` at most.

The private loops of a process, and their viewers, are its own hub's in any case.
"""

from __future__ import annotations

import logging
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ..errors import HubError
from ..patch import Patch
from ..settings import Settings
from . import process, rendezvous
from .calls import Gone
from .client import Client, Owner
from .control import Control
from .hub import Outlet, Shared
from .thread import HubThread

logger = logging.getLogger("afterload.hub")
T = TypeVar("T")

_APPEARS = 10.0  # seconds that a hub process has to be there after it was started
_LOOK = 0.02  # seconds between two looks at whether it is
_COURTESY = 3.0  # seconds that another process has to start one
_PATIENCE = 1.0  # seconds that the first requests of a process wait for its hub
_ELSEWHERE = 60.0  # seconds between two looks at whether another user has such a hub
_REPORT = 1.0  # seconds between two reports of what a process has of its own
_AGAIN = 0.5  # seconds between two tries to find a hub, or to start one, where that has failed


def new_member() -> str:
    """A name for a process, unlike that of any other."""
    return secrets.token_urlsafe(6)


class Loops(Owner, Protocol):
    """What is asked of the loops of this process."""

    @property
    def running(self) -> int:
        """How many run."""

    def offered(self) -> Sequence[tuple[str, float]]:
        """What it offers to run, and how long each goes on after its last viewer."""

    def stop_all(self, outlet: Shared) -> None:
        """The leases of a hub are over."""

    def come(self, outlet: Outlet) -> None:
        """There is a hub, which is to have the jobs."""

    def lose_jobs(self) -> None:
        """The process ends, and its jobs with it."""


class Meeting:
    """Where a process's shared channels are.

    Args:
        thread: its own hub.
        settings: of the app.
        namespace: whose hub others are to find; "" for a process that meets nobody.
        member: what this process is called there: part of the keys of its private loops.
        loops: its loops.
        stopping: whether this process was told to end, so that it is to start nothing any more.

    Attributes:
        member: see above.
        serves: it answers requests, and so it offers to run loops.
    """

    def __init__(
        self,
        thread: HubThread,
        settings: Settings,
        namespace: str,
        member: str,
        loops: Loops,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.member = member
        self._stopping = stopping
        self.serves = False
        self._hub = thread.hub
        self._settings = settings
        self._namespace = namespace if rendezvous.POSSIBLE else ""
        self._loops = loops
        self._others = False
        self._several = False
        self._shared: Shared = thread.hub
        self._client: Client | None = None
        self._host: Control | None = None
        self._ever = False
        self._expects = False
        self._lost = False
        self._closed = False
        self._leaving = False
        self._looking = False
        self._refused = ""
        self._first_look = 0.0
        self._looked_elsewhere = -math.inf
        self._lock = threading.Lock()
        self._changed = threading.Condition()

    @property
    def shared(self) -> Shared:
        """The hub of the shared channels; where it was lost and another one is not there yet, the one that was."""
        return self._shared

    @property
    def is_settled(self) -> bool:
        """Whether it is where it is to be, and so `shared` is where."""
        client, shared = self._client, self._shared
        if shared is self._hub:
            return self._is_host
        # Not before `shared` says so: what is published meanwhile would be the own hub's, where nobody follows.
        return shared is client and not client.is_gone

    @property
    def _is_host(self) -> bool:
        """Whether the shared channels are its own, for others too if there can be any."""
        return self._host is not None or not self._namespace

    @property
    def is_serving(self) -> bool:
        """Whether it answers requests and is where it is to be; or is about to end."""
        return (self.serves and self.is_settled) or self._leaving

    @property
    def is_cut_off(self) -> str:
        """Why its viewers would miss what other processes publish; "" if they would not."""
        if not self._namespace:
            alone = "a namespace is needed" if rendezvous.POSSIBLE else "processes meet on Linux only"
            return alone if self._others or self._settings.hub == "process" else ""
        return "" if self.is_settled or not self._several else self._refused

    @property
    def is_elsewhere(self) -> bool:
        """Whether the shared channels are another process's, or will be in a moment."""
        if self._refused and not self.is_settled:
            return False
        return self._client is not None or (bool(self._namespace) and self._several)

    def serve(self, several: bool) -> None:
        """This process answers requests: it finds its hub. The first requests wait for that, for a moment.

        Args:
            several: others do so too, so the hub is to be a process of its own if there is none yet.
        """
        if self.is_serving:
            return
        first = not self.serves
        self._several = self._is_several(several)
        self.serves = self._expects = True
        client = self._client
        if first and client is not None and not client.is_gone:
            self._offer_all(client)
        if not self.is_settled:
            self._look_on()
            with self._changed:
                left = self._first_look + _PATIENCE - time.monotonic()
                self._changed.wait_for(lambda: self.is_settled, max(0.0, left))

    def expect(self, several: bool) -> None:
        """This process will answer requests, and is not ready to: it finds its hub, and offers nothing yet."""
        self._several = self._is_several(several)
        self._expects = True
        self._look_on()

    def _is_several(self, several: bool) -> bool:
        self._others = self._others or several
        how = self._settings.hub
        return how == "process" or (how == "auto" and (several or self._several))

    def offer(self, name: str, linger: float) -> None:
        """There is one more loop that this process can run."""
        client = self._client
        if self.serves and client is not None and not client.is_gone:
            try:
                client.offer([(name, linger)])
            except HubError:
                pass  # it is offered to the next one

    def publish(self, name: str, patches: tuple[Patch, ...]) -> tuple[str, int]:
        """Adds an entry to a channel; returns the log's epoch and the entry's offset.

        Raises:
            HubError: there is no hub, or it does not answer.
        """
        return self.with_hub(lambda shared: (shared.epoch, shared.publish(name, patches)))

    def with_hub(self, action: Callable[[Shared], T]) -> T:
        """Does something with the hub; with the next one, where it ends meanwhile.

        Raises:
            HubError: there is no hub for `publish_timeout` seconds, or it does not answer.
        """
        if self._shared is self._hub and (self._is_host or self._alone_for_now()):
            return action(self._hub)
        deadline = time.monotonic() + self._settings.publish_timeout
        while True:
            shared = self._there(deadline)
            if shared is None:
                return action(self._hub)
            try:
                return action(shared)
            except Gone:
                if time.monotonic() > deadline:
                    raise
                if isinstance(shared, Client):
                    shared.close()

    @property
    def looks(self) -> bool:
        """Whether there may yet be another hub than the process has now."""
        return not (self.is_settled or self._ends() or self._is_unseen())

    def present(self) -> Shared | None:
        """The hub, if it is there. If not, it is looked for: once, or in a process that answers requests until it is.

        For who does not wait for it; see `with_hub`.
        """
        if self._expects:
            self._look_on()
        elif self.looks:
            try:
                with self._lock:
                    if not self.is_settled:
                        self._find_or_start()
            except (HubError, OSError):
                pass  # and the next time again; the second where no descriptor, or no process, is to be had
        return self._shared if self.is_settled else None

    def leave(self) -> None:
        """This process is about to end: others are to run its loops, and to be the hub."""
        client, host = self._client, self._host
        self._leaving = True
        self.serves = self._expects = False
        self._loops.lose_jobs()
        if client is not None and not client.is_gone:
            try:
                client.withdraw()
            except HubError:
                pass
            self._loops.stop_all(client)
        if host is not None:
            self._host = None
            host.leave()

    def close(self) -> None:
        """The process ends, or this life of it."""
        self._closed = True
        if self._client is not None:
            self._client.close()

    def release(self) -> None:
        """Closes everything without a word: what a forked child does with its copy."""
        self._closed = True
        if self._client is not None:
            self._client.release()

    # How it finds one

    def _meet(self) -> None:
        """Finds the hub, starts one or becomes it; under the lock."""
        began = time.monotonic()
        try:
            while not self._ends():
                client = self._find()
                if client is not None:
                    self._become(client)
                    return
                if self._several:
                    waited = time.monotonic() > began + _COURTESY
                    process.start(self._namespace, self._settings.hub_idle, anyway=waited)
                else:
                    listener = rendezvous.bind(self._namespace)
                    if listener is not None:
                        self._host = Control(self._hub, listener, self._namespace, "thread")
                        self._client = None
                        self._loops.come(self._hub.outlet)
                        self._settle(self._hub)
                        if self._ends():  # meanwhile
                            self._host.leave()
                            self._host = None
                        return
                self._wait_for_one(began)
        except (HubError, OSError) as error:  # the second where no descriptor, or no process, is to be had
            if str(error) != self._refused:
                self._refused = str(error)
                logger.error("afterload: this process is without the hub of the others: %s", error)

    def _ends(self) -> bool:
        """Whether this process is about to end, and begins nothing any more."""
        return self._closed or self._leaving or self._stopping()

    def _become(self, client: Client) -> None:
        self._client = client
        if self._lost:
            self._lost = False
            logger.warning(
                "afterload: the hub of namespace %r is process %d now", client.namespace, client.pid
            )
        self._hub.later(_REPORT, lambda: self._report(client, (0, 0)))
        if self.serves:
            self._offer_all(client)
        self._loops.come(client)
        self._settle(client)
        if self._closed:  # meanwhile
            client.close()

    def _settle(self, shared: Shared) -> None:
        self._refused = ""
        self._ever = True
        with self._changed:
            self._shared = shared
            self._changed.notify_all()
        self._hub.move(shared is not self._hub)  # who came while it was not known may be here

    def _offer_all(self, client: Client) -> None:
        try:
            client.offer(self._loops.offered())
        except HubError:
            pass  # it is gone, and the next one is offered them

    def _gone(self, client: Client) -> None:
        """The hub has ended; in the poller's thread."""
        self._loops.stop_all(client)
        if client is self._client and self._expects and not self._closed:
            if not client.is_ending:
                self._lost = True
                logger.warning(
                    "afterload: the hub of namespace %r (process %d) has ended without a word; its pages come back",
                    client.namespace,
                    client.pid,
                )
            self._look_on()

    def _report(self, client: Client, said: tuple[int, int]) -> None:
        """Tells the hub now and then what this process has of its own; in the poller's thread."""
        if client.is_gone:
            return
        now = self._hub.held, self._loops.running
        if now != said:
            try:
                client.report(*now)
            except HubError:
                now = said  # it does not listen: once more in a moment
        self._hub.later(_REPORT, lambda: self._report(client, now))

    def _look_on(self) -> None:
        """Goes on to look for a hub, in a thread of its own, until there is one."""
        with self._changed:
            if self._looking or self._ends():
                return
            self._looking = True
            self._first_look = self._first_look or time.monotonic()
        try:
            threading.Thread(target=self._look, name="afterload-meeting", daemon=True).start()
        except RuntimeError as error:  # the next one who needs it tries again
            self._looking = False
            self._refused = f"the system gives no thread to look for it: {error}"

    def _look(self) -> None:
        while not self._ends():
            try:
                with self._lock:
                    if not self.is_settled:
                        self._meet()
            except Exception:
                logger.exception("afterload: an error in the search for the hub; it goes on")
            with self._changed:
                if self.is_settled:
                    self._looking = False
                    return
            time.sleep(_AGAIN)
        self._looking = False

    # How who publishes gets one

    def _is_unseen(self) -> bool:
        """Whether it looks for nobody: tests of an app are not to be seen by who has it open."""
        return "pytest" in sys.modules and not (self._ever or self._expects)

    def _alone_for_now(self) -> bool:
        """Whether nobody else is to be told, as there is no hub that could be found."""
        if self._ever:
            return False
        if self._expects:
            return bool(self._refused) and not self._several
        if self._is_unseen():
            return True
        with self._lock:
            if self._client is None:
                self._find_or_start()
        return self._client is None

    def _find_or_start(self) -> None:
        """For a process that only publishes.

        Raises:
            HubError: there is one of another user, or it refuses this process; or none could be started.
        """
        client = self._find()
        began = time.monotonic()
        while client is None and self._settings.hub == "process":
            waited = time.monotonic() > began + _COURTESY
            process.start(self._namespace, self._settings.hub_idle, anyway=waited)
            client = self._find()
            if client is None:
                self._wait_for_one(began)
        if client is not None:
            self._become(client)
        elif (
            time.monotonic() - self._looked_elsewhere > _ELSEWHERE
        ):  # a list of all sockets of the host is read
            if elsewhere := rendezvous.others(self._namespace):
                raise HubError(elsewhere, namespace=self._namespace)
            self._looked_elsewhere = time.monotonic()

    def _find(self) -> Client | None:
        # One that leaves may still be known there by its name.
        member = new_member() if self._leaving else self.member
        found = Client.find(
            self._namespace, self._settings, member, self._hub.poller, self._loops, self._gone
        )
        if found is not None and found.epoch == self._hub.epoch:
            found.close()  # it is this process's own, which is about to leave its place
            return None
        return found

    def _wait_for_one(self, began: float) -> None:
        if time.monotonic() > began + _APPEARS:
            raise HubError(f"no hub of namespace {self._namespace!r} has appeared", namespace=self._namespace)
        time.sleep(_LOOK)

    def _there(self, deadline: float) -> Shared | None:
        """The hub; None if this process was it, ends, and has no successor: there is nobody to be told."""
        began = time.monotonic()
        while True:
            if self.is_settled:
                return self._shared
            now = time.monotonic()
            left = deadline - now
            if self._shared is self._hub and (self._closed or (self._ends() and now - began > _PATIENCE)):
                return None
            if left <= 0 or self._closed:
                seconds = f"{self._settings.publish_timeout:g} s (publish_timeout)"
                why = f": {self._refused}" if self._refused else ""
                raise HubError(
                    f"there has been no hub of namespace {self._namespace!r} for {seconds}{why}",
                    namespace=self._namespace,
                )
            if self._expects:
                self._look_on()
                with self._changed:
                    if not self.is_settled:
                        self._changed.wait(min(left, _AGAIN))
                continue
            with self._lock:
                if not self.is_settled:
                    self._find_or_start()
            if not self.is_settled:
                time.sleep(_LOOK)
