"""A job's channel, as the process that runs the job holds it.

The channel stands in the hub, under a lease that only this process has (`afterload.hub.leases`). What the job has left
in it so far is kept here as well, compacted and bounded as there: when the hub ends, the job goes on, and its channel
is begun anew with that in the next one. A job never waits for a hub that is not there::

    held ──publish──▶ the hub has it, and `state` too
      │
      └─ the hub is gone, silent, or knows nothing of the lease ──▶ adrift: `state` only ──hold──▶ held
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..errors import HubError, PatchError
from ..log import OPEN
from ..patch import Patch
from ..settings import Settings
from ..state import State
from .calls import Refusal
from .client import Client
from .hub import Outlet
from .leases import STOPPED, Runner

logger = logging.getLogger("afterload.loops")

PREFIX = "job-"


class Held:
    """The channel of one job.

    Args:
        id: the job's.
        label: its name in log records.
        settings: bounds of the state.
        drifted: called when a hub is to be found for it.

    Attributes:
        channel: the channel's name.
        status: "open" until the job has ended.
        message: of the status, for readers.
        over: set when it has ended, and its hub was told if it has one.
        told: set when a hub knows that it has ended.
    """

    def __init__(self, id: str, label: str, settings: Settings, drifted: Callable[[], None]) -> None:
        self.id = id
        self.channel = PREFIX + id
        self.label = label
        self.status = OPEN
        self.message = ""
        self.over = threading.Event()
        self.told = threading.Event()
        self._drifted = drifted
        self._holding = threading.Lock()  # taken before the other one, by who may wait for a hub
        self._lock = threading.RLock()
        self._state = State(settings.state_bytes, settings.state_cells)
        self._is_whole = True
        self._begun = 0  # how often the state has begun anew
        self._count = 0
        self._outlet: Outlet | None = None
        self._number = 0

    @property
    def is_remote(self) -> bool:
        """Whether who publishes may have to wait for another process."""
        return isinstance(self._outlet, Client)

    def is_with(self, outlet: object) -> bool:
        """Whether it is held there."""
        return outlet is not None and self._outlet is outlet

    def hold(self, runner: Runner, outlet: Outlet) -> None:
        """Begins the channel there, with all that the job has left so far; and ends it, if the job has ended.

        Raises:
            HubError: the hub is gone, or does not answer.
        """
        with self._holding:
            if not self._hold(runner, outlet):
                with self._lock:  # it publishes so much meanwhile that this might never be all
                    while not self._hold(runner, outlet):
                        pass

    def _hold(self, runner: Runner, outlet: Outlet) -> bool:
        """Whether that was all; the job goes on meanwhile."""
        with self._lock:
            if self.is_with(outlet):
                return True
            self._outlet = None
            patches, whole = self._patches(), self._is_whole
            begun, count, said = self._begun, self._count, self._state.message
        try:
            number = outlet.hold(runner, self.channel, patches, whole)
        except PatchError:  # a state of more than one message may have
            if not patches:
                raise
            with self._lock:
                self._begin_anew()
            return False
        with self._lock:
            if begun != self._begun:
                return False
            self._outlet, self._number = outlet, number
            newer = self._state.since(count)
            if (text := self._state.message) is not None and text != said:
                newer.append(Patch("message", "", text))
            if newer:
                try:
                    self._tell(tuple(newer))
                except PatchError:
                    self._outlet = None
                    self._begin_anew()
                    return False
            if self.over.is_set():
                self._finish(self.status, self.message)
            return True

    def _patches(self) -> tuple[Patch, ...]:
        text = self._state.message
        last = () if text is None else (Patch("message", "", text),)
        return (*self._state.whole(), *last)

    def _begin_anew(self) -> None:
        self._state.clear()
        self._is_whole = False
        self._begun += 1

    def publish(self, entry: tuple[Patch, ...]) -> None:
        """Adds an entry, unless the job has ended.

        Raises:
            PatchError: it is too much for one message.
            HubError: the hub refuses it.
        """
        with self._lock:
            if self.over.is_set():
                return
            self._count += 1
            self._tell(entry)
            for patch in entry:
                self._state.apply(patch, self._count)
            if self._state.overflowed:
                self._begin_anew()

    def _tell(self, entry: tuple[Patch, ...]) -> None:
        if self._outlet is None:
            return
        try:
            offset = self._outlet.publish_run(self.channel, self._number, self._count, entry)
        except Refusal:
            raise
        except HubError as error:
            self._drift(error)
        else:
            if offset is None:
                self._drift("the hub has taken it for lost")

    def _drift(self, why: object) -> None:
        self._outlet = None
        logger.warning(
            "afterload: the job %r goes on without its hub; its pages see what it does when there is one: %s",
            self.label,
            why,
        )
        self._drifted()

    def finish(self, status: str, message: str) -> None:
        """The job has ended; nothing, if it is over already."""
        with self._holding, self._lock:
            if not self.over.is_set():
                self._finish(status, message)  # first: who waits for the end may end the process
                self._end(status, message)

    def lose(self) -> None:
        """The process ends, and with it the job; the hub is told by who gives back all leases."""
        # Not under the lock: somebody may wait for the hub there, and this must not.
        if not self.over.is_set():
            self._end("lost", STOPPED)
            self.told.set()

    def _end(self, status: str, message: str) -> None:
        self.status, self.message = status, message
        self.over.set()

    def _finish(self, status: str, message: str) -> None:
        if self._outlet is None:
            return
        try:
            self._outlet.finish(self.channel, self._number, status, message)
        except HubError as error:
            self._drift(error)
        else:
            self.told.set()
