"""The hub: owns the channels' logs and the viewers' sockets, and alone writes to viewers.

Any thread may call it. What changes the log does so under the lock, and the poller is woken; what is the viewers' is
left as a command for the poller (`afterload.hub.fanout`). Other processes reach it by `afterload.hub.control`, and see
it as an `afterload.hub.client.Client`, which has what `Shared` says too.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from ..errors import PatchError
from ..log import Log, Present, Step
from ..patch import Patch
from ..pipe import Pipe
from ..settings import Settings
from .fanout import Fanout
from .frames import VERSION, title
from .head import SharedHead
from .leases import Leases, Runner
from .poller import Poller
from .viewer import Follow

logger = logging.getLogger("afterload.hub")
_WARNED_MOST = 100


class Outlet(Protocol):
    """Where what loops and jobs yield is published, as long as a lease says so: `leases.Leases`, or another's."""

    def publish_run(self, name: str, number: int, count: int, patches: tuple[Patch, ...]) -> int | None:
        """Publishes what the run yields as its `count`th; returns None if the lease is over, and nothing was."""

    def give_back(self, name: str, number: int) -> None:
        """The run has ended, and the loop has not."""

    def finish(self, name: str, number: int, status: str, message: str) -> None:
        """The run, or the job, has ended by itself."""

    def hold(self, runner: Runner, name: str, patches: tuple[Patch, ...], whole: bool) -> int:
        """See `leases.Leases.hold`."""

    def standing(self, name: str) -> tuple[str, str] | None:
        """See `leases.Leases.standing`."""

    def cancel(self, name: str) -> bool:
        """See `leases.Leases.cancel`."""


class Shared(Protocol):
    """A hub of shared channels, in this process or in another. It is one life of one: its epoch does not change."""

    @property
    def epoch(self) -> str:
        """Of the shared log."""

    @property
    def outlet(self) -> Outlet:
        """Where what loops and jobs yield is published, under a lease."""

    def head(self) -> int:
        """The shared log's head; costs no lock and no round trip."""

    def publish(self, name: str, patches: tuple[Patch, ...]) -> int:
        """Adds an entry to a channel; returns its offset once the hub has it."""

    def viewers(self, name: str) -> int:
        """How many viewers follow a channel."""

    def at_end(self, names: Sequence[str], at: int) -> bool:
        """Whether all of these channels are over and a page at `at` has all of them."""

    def answer(
        self, names: Sequence[str], at: int | None, *, rendered: bool, painted: Collection[str] = ()
    ) -> Sequence[Step]:
        """What a page that connects now is given; see `Log.connect`."""

    def present(self, name: str) -> Present:
        """What a channel shows; see `Log.present`. Nothing, where a loop will begin it anew for its next viewer."""

    def lacks(self, names: Sequence[str], position: str, foreign: bool) -> list[str]:
        """Of which of these channels there is no state for a viewer with that position; see `Log.lacks`."""

    def restore(self, name: str, at: int, patches: tuple[Patch, ...]) -> bool:
        """Gives the state of a channel a base; see `Log.restore`."""

    def adopt(self, sock: socket.socket, follow: Follow) -> None:
        """Takes a connected socket for good and serves it."""

    def restart(self, name: str) -> None:
        """See `Leases.restart`."""

    def revoke(self, names: Sequence[str], owner: str | None) -> None:
        """Has the views of viewers asked again; see `Fanout.revoke`. Also of those that other processes hold."""

    def stats(self) -> dict[str, Any]:
        """Present numbers, and counters since the start."""


class Door(Protocol):
    """How other processes come to a hub."""

    @property
    def is_young(self) -> bool:
        """Whether it was opened a moment ago, so that not all may have come."""

    def close(self) -> None:
        """Nobody comes by it any more."""

    def stats(self) -> dict[str, Any]:
        """Which hub it is, and the processes that have come."""

    def revoke(self, names: Sequence[str], owner: str | None) -> None:
        """Tells all of them; called by the poller."""


class Hub:
    """Channels and viewers of one process.

    Args:
        settings: bounds and durations.
        clock: monotonic seconds.
        epoch: of the shared log; random by default, and it has to be new in each life of the hub.

    Attributes:
        log: of the shared channels; each private loop has one of its own.
        leases: who runs the shared loops.
        door: how other processes come to it, where they do.
        poller: turned by whoever runs the hub.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: str | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.closed = False
        self.log = self.new_log(epoch or secrets.token_urlsafe(6))
        self.poller = Poller(clock)
        self._lock = threading.Lock()
        self._started = clock()
        self._warned: set[str] = set()
        self._arriving: deque[tuple[socket.socket, Follow]] = deque()
        self.fanout = Fanout(settings, self.poller, self._lock, self.log)
        self.leases = Leases(self)
        self.door: Door | None = None
        self._shared_head: SharedHead | None = None

    def new_log(self, epoch: str) -> Log:
        """A log with this hub's bounds."""
        s = self.settings
        return Log(
            epoch,
            history=s.history,
            history_bytes=s.history_bytes,
            state_bytes=s.state_bytes,
            state_cells=s.state_cells,
            max_channels=s.max_channels,
        )

    def settle(self, settings: Settings) -> None:
        """Takes other bounds and durations from now on; channels that are there keep the bounds of their states."""
        with self._lock:
            self.settings = self.fanout.settings = settings
            self.log.history, self.log.history_bytes = settings.history, settings.history_bytes
            self.log.state_bytes, self.log.state_cells = settings.state_bytes, settings.state_cells
            self.log.max_channels = settings.max_channels

    @property
    def epoch(self) -> str:
        """Of the shared log."""
        return self.log.epoch

    @property
    def outlet(self) -> Outlet:
        """See `Shared`."""
        return self.leases

    def head(self) -> int:
        """The shared log's head. Taken for every request, so it costs no lock."""
        return self.log.head

    def shared_head(self) -> SharedHead:
        """The same where other processes see it."""
        with self._lock:
            if self.closed:
                raise OSError("the hub has ended")
            if self._shared_head is None:
                self._shared_head = SharedHead()
                self._shared_head.set(self.log.head)
            return self._shared_head

    def _changed(self, log: Log, name: str) -> bool:
        """Something was added to a channel; called under the lock. Whether the poller has to wake."""
        if self._shared_head is not None and log is self.log:
            self._shared_head.set(log.head)
        return self.fanout.touch(log, name)

    def publish(self, name: str, patches: tuple[Patch, ...], log: Log | None = None) -> int:
        """Adds an entry to a channel; returns its offset.

        Raises:
            PatchError: no log is given, and it is the channel of a job.
        """
        if log is None:
            log = self.log
            if self.leases.is_job(name):
                raise PatchError(
                    f"{name!r} is the channel of a job, which alone publishes to it: job.publish(...)"
                )
        with self._lock:
            entry = log.append(name, patches)
            dirty = self._changed(log, name)
            if len(log.channels) > log.max_channels * 1.1:
                # A channel that a loop writes, or has written, is remembered as long as the loop is.
                fanout = self.fanout
                log.trim(
                    n for keys in (fanout.by_channel, fanout.watchers) for e, n in keys if e == log.epoch
                )
        if dirty:
            self.poller.wake()
        if entry.overflowed:
            self._overflowed(name)
        return entry.offset

    def _overflowed(self, name: str) -> None:
        self.count("state_overflows")
        if name in self._warned or len(self._warned) >= _WARNED_MOST:
            return
        self._warned.add(name)
        logger.warning(
            "afterload: the state of channel %r is more than %d bytes or %d patches, and begins anew: a page that "
            "opens late sees what its own HTML shows, and what comes from now on. Bound what is added with "
            "append(..., keep=n), or raise state_bytes and state_cells",
            name,
            self.settings.state_bytes,
            self.settings.state_cells,
        )

    def begin(self, name: str, log: Log | None = None, *, whole: bool = True) -> None:
        """A loop begins to write the channel; what was in it is void.

        Args:
            name: of the channel.
            log: where it stands.
            whole: what is written from now on is all that is to be done to a page as it was served.
        """
        log = log or self.log
        with self._lock:
            log.begin(name)
            log.channels[name].run = whole
            dirty = self._changed(log, name)
        if dirty:
            self.poller.wake()

    def finish(self, name: str, status: str, message: str = "", log: Log | None = None) -> None:
        """The channel is over."""
        log = log or self.log
        with self._lock:
            log.finish(name, status, message)
            dirty = self._changed(log, name)
        if dirty:
            self.poller.wake()

    def drop(self, name: str) -> None:
        """A channel that nobody will ask for again is not remembered any more."""
        with self._lock:
            self.log.channels.pop(name, None)

    @property
    def is_young(self) -> bool:
        """Whether processes may yet come that were with the hub before this one."""
        return self.door is not None and self.door.is_young

    def at_end(self, names: Sequence[str], at: int, log: Log | None = None) -> bool:
        """Whether all of these channels are over and a page at `at` has all of them."""
        with self._lock:
            return (log or self.log).at_end(names, at)

    def answer(
        self, names: Sequence[str], at: int | None, *, rendered: bool, painted: Collection[str] = ()
    ) -> Sequence[Step]:
        """What a page that connects now is given; see `Log.connect`."""
        with self._lock:
            return self.log.connect(names, at, rendered=rendered, painted=painted).steps

    def present(self, name: str) -> Present:
        """See `Shared`."""
        if self.leases.is_void(name):
            return Present(True, True, ())
        with self._lock:
            return self.log.present(name)

    def lacks(self, names: Sequence[str], position: str, foreign: bool) -> list[str]:
        """See `Shared`."""
        follow = Follow(None, tuple(names), position=position, foreign=foreign).within(self.log)
        with self._lock:
            return self.log.lacks(names, follow.at, rendered=follow.rendered, foreign=follow.foreign)

    def restore(self, name: str, at: int, patches: tuple[Patch, ...]) -> bool:
        """See `Shared`."""
        with self._lock:
            return self.log.restore(name, at, patches)

    def restart(self, name: str) -> None:
        """See `Leases.restart`."""
        self.leases.restart(name)

    def revoke(self, names: Sequence[str], owner: str | None) -> None:
        """Has the views of viewers asked again; see `Fanout.revoke`. Also of those that other processes hold."""
        self.poller.call(lambda: self._revoke(names, owner))

    def _revoke(self, names: Sequence[str], owner: str | None) -> None:
        self.fanout.revoke(names, owner)
        if self.door is not None:
            self.door.revoke(names, owner)

    def write(self, name: str, data: bytes, pipe: Pipe) -> None:
        """Adds a piece to a pipe."""
        with self._lock:
            pipe.write(data)
            dirty = not self.fanout.write_through(pipe, name, data) and self.fanout.touch(pipe, name)
        if dirty:
            self.poller.wake()

    def forget(self, pipe: Pipe, offset: int) -> None:
        """Forgets what was written to a pipe, up to an offset."""
        with self._lock:
            pipe.forget(offset)

    def hurry(self, log: Log, name: str) -> None:
        """Flushes a channel without waiting for its next turn."""
        self.fanout.hurry(log, name)

    def room(self, address: str) -> bool:
        """Whether one more viewer may be held."""
        return self.fanout.room(address)

    def adopt(self, sock: socket.socket, follow: Follow) -> None:
        """Takes a connected socket for good and serves it."""
        self._arriving.append((sock, follow))
        self.poller.call(self._take_in)

    def _take_in(self) -> None:
        self.fanout.adopt(*self._arriving.popleft())

    @property
    def held(self) -> int:
        """How many viewers there are."""
        return len(self.fanout.viewers)

    def viewers(self, name: str, log: Log | None = None) -> int:
        """How many viewers follow a channel."""
        return self.fanout.count(log or self.log, name)

    def watch(self, log: Log, name: str, callback: Callable[[int], None]) -> None:
        """Calls back, in the poller's thread, with the number of a channel's viewers when it changes."""
        self.fanout.watchers[log.epoch, name] = callback

    def unwatch(self, log: Log, name: str) -> None:
        """Ends `watch`."""
        self.fanout.watchers.pop((log.epoch, name), None)
        self.fanout.left.pop((log.epoch, name), None)

    def left_at(self, log: Log, name: str) -> float:
        """Clock time at which a watched channel lost its last viewer; 0 if it never had one."""
        return self.fanout.left.get((log.epoch, name), 0.0)

    def track(self, log: Log, callback: Callable[[int], None]) -> None:
        """Calls back, in the poller's thread, with the offset up to which a private log's viewer was served."""
        self.fanout.progress[log.epoch] = callback

    def untrack(self, log: Log) -> None:
        """Ends `track`."""
        self.fanout.progress.pop(log.epoch, None)

    def later(self, delay: float, command: Callable[[], None]) -> None:
        """Runs a command in the poller's thread, `delay` seconds from now."""
        self.poller.later(delay, command)

    def count(self, what: str) -> None:
        """Adds one to a counter of `stats`."""
        self.fanout.counters[what] += 1

    def stats(self) -> dict[str, Any]:
        """Present numbers, and counters since the start.

        ``behind`` are the viewers that have yet to take the rest of a block, and ``lag`` is the seconds since when the
        slowest of them has taken nothing.
        """
        # Before the lock: who has that of the leases may wait for this one.
        runners, offered = self.leases.holders(), sorted(self.leases.offered())
        with self._lock:
            behind = [viewer for group in self.fanout.groups.values() for viewer in list(group.behind)]
            now = self.clock()
            of_door = {"namespace": "", "hub": "thread", "title": title(), "processes": []}
            return {
                **(of_door if self.door is None else self.door.stats()),
                "pid": os.getpid(),
                "version": VERSION,
                "loops_run": {name: getattr(runner, "pid", os.getpid()) for name, runner in runners.items()},
                "loops_offered": offered,
                "epoch": self.log.epoch,
                "uptime": self.clock() - self._started,
                "published": self.log.head,
                "viewers": len(self.fanout.viewers),
                "behind": len(behind),
                "lag": max([now - viewer.stalled for viewer in behind], default=0.0),
                "errors": self.poller.errors,
                "channels": {
                    name: {
                        "viewers": self.fanout.count(self.log, name),
                        "entries": channel.seq,
                        "status": channel.status,
                        "state_bytes": channel.state.size,
                    }
                    for name, channel in self.log.channels.items()
                },
                **(self.fanout.counters + self.fanout.written_through),
            }

    def move(self, elsewhere: bool) -> None:
        """The shared channels are another hub's from now on, or again this one's."""
        self.fanout.is_elsewhere = elsewhere
        if elsewhere:
            self.poller.call(self.fanout.move)

    def say_bye(self) -> None:
        """Ends every viewer with `bye`, behind what can be sent at once; in the poller's thread."""
        self.fanout.flush()
        self.fanout.say_bye()

    def release(self) -> None:
        """Closes everything without a word: what a forked child does with its copy."""
        self.closed = True
        if self.door is not None:
            self.door.close()
        if self._shared_head is not None:
            self._shared_head.close()
            self._shared_head = None
        while self._arriving:
            self._arriving.popleft()[0].close()
        self.fanout.release()
        self.poller.close()
