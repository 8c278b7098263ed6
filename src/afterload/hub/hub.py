"""The hub: owns the viewers' sockets and the channels' logs, and alone writes to viewers.

One thread, the **poller**, runs `run_once` for ever. Any thread may call `publish`, `adopt`, `finish`, `head` and
the other public methods: they change the log under the lock, or leave a command for the poller, and wake it.

A publish appends an entry, marks the groups that follow its channel as dirty, and is done. The poller flushes a
dirty group at most `flush_rate` times a second, the first time at once: it asks the log what is new since the
group's cursor, encodes that once, and sends the same bytes to every viewer in `current`. Nothing else is touched
for each viewer: no task, queue, lock or allocation.

Where a viewer stands::

    adopt ──▶ first answer sent whole ──▶ current ◀──────────────┐
                    │                       │ short send          │ at the group's cursor
                    ▼                       ▼                     │
                  behind  (rest, at) ──▶ rest sent ──▶ news since `at` sent whole
                                            │
                                            └─▶ waiting, if the group is dirty: joins in its flush

A viewer that follows the end of its channels is `closing`: rest, `shutdown(SHUT_WR)`, then read until its FIN or
a deadline, so that the last bytes arrive and are not overtaken by a reset.
"""

from __future__ import annotations

import heapq
import logging
import random
import secrets
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..log import Answer, Log
from ..patch import Patch
from ..settings import Settings
from ..wire import sse
from .viewer import SEND_FLAGS, Group, Send, Viewer, gil_keeping_send

logger = logging.getLogger("afterload.hub")
viewer_logger = logging.getLogger("afterload.viewer")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
TICK = 1.0  # heartbeats, stalls and lingering closes are looked at this often
HOLD_GIL = 0.001  # longest run of sends without giving up the GIL
DRAIN = 2.0  # how long a viewer may take to close after its last bytes
DISCARD = 65_536


@dataclass(frozen=True, slots=True)
class Follow:
    """What a connecting viewer asks for.

    Attributes:
        log: the log its channels stand in.
        names: the channels.
        at: its position there, or None.
        rendered: its page was served at that position and has had nothing since.
        foreign: it sent a position, but of another log.
        position: what it sent, repeated by `hello` ("0" if nothing).
        into: the page's target for plain strings.
        hold: False for a short stream: what is new, then `bye`.
        head: bytes sent first (the HTTP response head).
        address: the client's address, for the log and the limits.
    """

    log: Log
    names: tuple[str, ...]
    at: int | None = None
    rendered: bool = False
    foreign: bool = False
    position: str = "0"
    into: str | None = None
    hold: bool = True
    head: bytes = b""
    address: str = ""


class Hub:
    """Owns viewers and channels; see the module's text.

    Args:
        settings: bounds and durations.
        clock: monotonic seconds.
        epoch: of the shared log; random by default, and it has to be new in each life of the hub.
        send: ``send(fd, data, size, flags) -> sent``, negative on error; for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: str | None = None,
        send: Send | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.lock = threading.Lock()
        self.log = self.new_log(epoch or secrets.token_urlsafe(6).replace("_", "~"))
        self.counters: Counter[str] = Counter()
        self.closed = False
        self._groups: dict[tuple[str, tuple[str, ...]], Group] = {}
        self._by_channel: dict[tuple[str, str], list[Group]] = {}
        self._viewers: dict[int, Viewer] = {}
        self._lingering: dict[int, tuple[socket.socket, float]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._addresses: Counter[str] = Counter()
        self._watchers: dict[tuple[str, str], Callable[[int], None]] = {}
        self._left: dict[tuple[str, str], float] = {}
        self._progress: dict[str, Callable[[int], None]] = {}
        self._dirty: deque[Group] = deque()
        self._encoded: dict[Any, bytes] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer = 0
        self._next_tick = 0.0
        self._started = clock()
        self._send = send or gil_keeping_send() or self._plain_send
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_in, READ, None)
        self._asleep = False
        self.on_busy: Callable[[], None] = lambda: None  # the runner starts its thread when there is work

    # Called from any thread

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

    def head(self) -> int:
        """The shared log's head. Taken when a request comes in, so it costs no lock."""
        return self.log.head

    def publish(self, name: str, patches: tuple[Patch, ...], log: Log | None = None) -> str:
        """Adds an entry to a channel; returns its position."""
        log = log or self.log
        with self.lock:
            entry = log.append(name, patches)
            self._touch(log, name)
            if len(log.channels) > log.max_channels * 1.1:
                log.trim(n for epoch, n in self._by_channel if epoch == log.epoch)
        self.counters["published"] += 1
        self._wake_if_dirty()
        return f"{log.epoch}.{entry.offset}"

    def begin(self, name: str, log: Log | None = None) -> None:
        """A loop begins to write the channel; what was in it is void."""
        log = log or self.log
        with self.lock:
            log.begin(name)
            self._touch(log, name)
        self._wake_if_dirty()

    def finish(self, name: str, status: str, message: str = "", log: Log | None = None) -> None:
        """The channel is over."""
        log = log or self.log
        with self.lock:
            log.finish(name, status, message)
            self._touch(log, name)
        self._wake_if_dirty()

    def at_end(self, log: Log, names: Sequence[str], at: int) -> bool:
        """Whether all of these channels are over and a page at `at` has all of them."""
        with self.lock:
            return log.at_end(names, at)

    def room(self, address: str) -> bool:
        """Whether one more viewer may be held."""
        s = self.settings
        if len(self._viewers) >= s.max_viewers:
            return False
        return not s.max_viewers_per_address or self._addresses[address] < s.max_viewers_per_address

    def adopt(self, sock: socket.socket, follow: Follow) -> None:
        """Takes a connected socket for good and serves it."""
        self.call(lambda: self._adopt(sock, follow))

    def watch(self, log: Log, name: str, callback: Callable[[int], None]) -> None:
        """Calls back, in the poller's thread, with the number of a channel's viewers when it changes."""
        self._watchers[log.epoch, name] = callback

    def unwatch(self, log: Log, name: str) -> None:
        self._watchers.pop((log.epoch, name), None)
        self._left.pop((log.epoch, name), None)

    def left_at(self, log: Log, name: str) -> float:
        """Clock time at which a watched channel lost its last viewer; 0 if it never had one."""
        return self._left.get((log.epoch, name), 0.0)

    def track(self, log: Log, callback: Callable[[int], None]) -> None:
        """Calls back, in the poller's thread, with the offset up to which the viewer of a private log was served."""
        self._progress[log.epoch] = callback

    def untrack(self, log: Log) -> None:
        self._progress.pop(log.epoch, None)

    def viewers(self, name: str, log: Log | None = None) -> int:
        """How many viewers follow a channel."""
        return self._counts[(log or self.log).epoch, name]

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        """Calls back in the poller's thread after `delay` seconds."""
        due = self.clock() + delay
        self.call(lambda: self._at(due, callback))

    def hurry(self, log: Log, name: str) -> None:
        """Flushes a channel's groups without waiting for their next turn."""

        def command() -> None:
            for group in self._by_channel.get((log.epoch, name), ()):
                if group.dirty:
                    group.next_flush = 0.0
                    self._dirty.append(group)

        self.call(command)

    def call(self, command: Callable[[], None]) -> None:
        """Runs a command in the poller's thread."""
        self._commands.append(command)
        self.on_busy()
        self.wake()

    def wake(self) -> None:
        if self._asleep:
            try:
                self._wake_out.send(b"\0")
            except (BlockingIOError, OSError):
                pass  # full: it is awake anyway; closed: nothing to wake

    def stats(self) -> dict[str, Any]:
        """Counters and present numbers."""
        with self.lock:
            return {
                "epoch": self.log.epoch,
                "uptime": self.clock() - self._started,
                "head": self.log.head,
                "viewers": len(self._viewers),
                "channels": {
                    name: {
                        "viewers": self._counts[self.log.epoch, name],
                        "entries": channel.seq,
                        "status": channel.status,
                        "state_bytes": channel.state.size,
                    }
                    for name, channel in self.log.channels.items()
                },
                **self.counters,
            }

    def _touch(self, log: Log, name: str) -> None:
        for group in self._by_channel.get((log.epoch, name), ()):
            if not group.dirty:
                group.dirty = True
                self._dirty.append(group)

    def _wake_if_dirty(self) -> None:
        if self._dirty:
            self.on_busy()
            self.wake()

    # The poller

    def run_once(self, timeout: float | None = None) -> None:
        """One turn: waits for something to do at most `timeout` seconds, and does it."""
        for key, mask in self._select(timeout):
            viewer = key.data
            if viewer is None:
                self._drain_wake()
                continue
            self._guarded(viewer, mask)
        for _ in range(len(self._commands)):
            self._safely(self._commands.popleft())
        self._run_timers()
        self._encoded.clear()
        for _ in range(len(self._dirty)):
            group = self._dirty.popleft()
            now = self.clock()
            if now < group.next_flush:
                self._at(group.next_flush, lambda g=group: self._dirty.append(g))  # type: ignore[misc]
            else:
                group.next_flush = now + 1 / self.settings.flush_rate
                self._safely(lambda g=group: self._flush(g))  # type: ignore[misc]
        if self.clock() >= self._next_tick:
            self._next_tick = self.clock() + TICK
            self._safely(self._tick)

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        self._asleep = True
        if self._commands or self._dirty:
            wait: float | None = 0.0
        else:
            wait = timeout
            if self._timers:
                wait = _least(wait, max(0.0, self._timers[0][0] - self.clock()))
            if self._viewers or self._lingering:
                wait = _least(wait, max(0.0, self._next_tick - self.clock()))
        try:
            return self._selector.select(wait)
        finally:
            self._asleep = False

    def _drain_wake(self) -> None:
        try:
            while self._wake_in.recv(4096):
                pass
        except (BlockingIOError, OSError):
            pass

    def _at(self, due: float, callback: Callable[[], None]) -> None:
        self._timer += 1
        heapq.heappush(self._timers, (due, self._timer, callback))

    def _run_timers(self) -> None:
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            self._safely(heapq.heappop(self._timers)[2])

    def _safely(self, action: Callable[[], None]) -> None:
        """The poller outlives any single failure; it is a bug, so it is logged whole."""
        try:
            action()
        except Exception:
            self.counters["errors"] += 1
            logger.exception("afterload: an error inside the hub; it goes on")

    def _guarded(self, viewer: Viewer | int, mask: int) -> None:
        if isinstance(viewer, int):
            self._linger_read(viewer)
            return
        try:
            if mask & READ:
                self._readable(viewer)
            if mask & WRITE and self._held(viewer):
                self._writable(viewer)
        except Exception:
            self.counters["errors"] += 1
            logger.exception("afterload: an error with one viewer; it is dropped")
            self._drop(viewer, "error")

    def _adopt(self, sock: socket.socket, follow: Follow) -> None:
        try:
            sock.setblocking(False)
            _tune(sock, self.settings.heartbeat)
        except OSError:
            sock.close()  # gone before it was here
            return
        log, key = follow.log, (follow.log.epoch, follow.names)
        group = self._groups.get(key)
        if log is not self.log and group is not None:
            # A private loop has one viewer: who comes with its key is the same page, back before the hub
            # noticed that its old connection is gone.
            for old in group.viewers():
                self._drop(old, "replaced")
            group = self._groups.get(key)
        if group is None:
            group = self._new_group(log, follow.names)
        viewer = Viewer(sock, group, follow.address, self.clock())
        with self.lock:
            answer = log.connect(follow.names, follow.at, rendered=follow.rendered, foreign=follow.foreign)
        data = follow.head + sse.hello(
            position=follow.position,
            resumed=bool(follow.at) and not follow.rendered and answer.cause in ("", "state"),
            heartbeat=self.settings.heartbeat,
            channels=list(follow.names),
            into=follow.into,
            retry=int(self.settings.retry * random.uniform(1, 1.5)),
        )
        shared = "connect", log.epoch, follow.names, follow.at, follow.rendered, follow.foreign, answer.offset
        encoded = self._encoded.get(shared)
        if encoded is None:
            encoded = self._encoded[shared] = self._encode(log, answer)
        data += encoded
        viewer.closing = answer.finished or not follow.hold
        if not follow.hold and not answer.finished:
            data += sse.bye(int(self.settings.short_retry * random.uniform(1, 1.5)))
        self._viewers[viewer.fd] = viewer
        group.waiting.add(viewer)
        self._selector.register(sock, READ, viewer)
        self._addresses[viewer.address] += 1
        self.counters["connects"] += 1
        self._count_cause(answer.cause)
        self._recount(group, 1)
        viewer.at = answer.offset
        self._write(viewer, data)

    def _new_group(self, log: Log, names: tuple[str, ...]) -> Group:
        group = Group(log, names, self._progress.get(log.epoch))
        with self.lock:
            self._groups[log.epoch, names] = group
            for name in names:
                self._by_channel.setdefault((log.epoch, name), []).append(group)
        return group

    def _recount(self, group: Group, by: int) -> None:
        for name in group.names:
            key = group.log.epoch, name
            self._counts[key] += by
            count = self._counts[key]
            if not count:
                del self._counts[key]
            watcher = self._watchers.get(key)
            if watcher is not None:
                if not count:
                    self._left[key] = self.clock()
                self._safely(lambda w=watcher, c=count: w(c))  # type: ignore[misc]

    def _encode(self, log: Log, answer: Answer) -> bytes:
        return b"".join(sse.step(step, log.epoch) for step in answer.steps)

    def _count_cause(self, cause: str) -> None:
        if cause:
            self.counters[f"answers_{cause}"] += 1

    def _flush(self, group: Group) -> None:
        """Sends a group what is new since its cursor."""
        log = group.log
        with self.lock:
            group.dirty = False
            if not len(group):
                return
            key = log.news_key(group.names, group.cursor)
            data = self._encoded.get(key) if key is not None else None
            answer = None if data is not None else log.news(group.names, group.cursor)
            group.cursor = log.head
        finished = False
        if answer is not None:
            data = self._encode(log, answer)
            finished = answer.finished
            self._count_cause(answer.cause)
            if key is not None:
                self._encoded[key] = data
        if data:
            self._broadcast(group, data)
        if finished:
            for viewer in list(group.current.values()):
                del group.current[viewer.fd]
                self._settle_bytes(viewer)
                group.waiting.add(viewer)
                viewer.closing = True
                self._written(viewer)
            for viewer in group.behind:
                # its rest ends with the last of the channels only if it was there for this flush
                if viewer.at == group.cursor:
                    viewer.closing = True
        for viewer in list(group.waiting):
            if not viewer.closing:
                self._catch_up(viewer)
        self._report(group)

    def _broadcast(self, group: Group, data: bytes) -> None:
        """The hot path: one send of shared bytes for each viewer."""
        send, size, flags, clock = self._send, len(data), SEND_FLAGS, self.clock
        late: list[tuple[int, int]] = []
        count = 0
        start = clock()
        group.last_sent = start
        for fd in group.current:
            sent = send(fd, data, size, flags)
            if sent != size:
                late.append((fd, sent))
            count += 1
            if not count & 31 and clock() - start > HOLD_GIL:
                time.sleep(0)
                start = clock()
        group.sent += size
        count -= len(late)
        self.counters["sends"] += count
        self.counters["bytes"] += count * size
        for fd, sent in late:
            viewer = group.current.pop(fd)
            self._settle_bytes(viewer)
            viewer.sent -= size
            group.waiting.add(viewer)
            viewer.at = group.cursor
            self._write(viewer, data, max(sent, 0))

    def _plain_send(self, fd: int, data: bytes, size: int, flags: int) -> int:
        try:
            return self._viewers[fd].sock.send(data)
        except OSError:
            return -1

    def _settle_bytes(self, viewer: Viewer) -> None:
        viewer.sent += viewer.group.sent - viewer.base

    def _write(self, viewer: Viewer, data: bytes, done: int = 0) -> None:
        """Sends a viewer that is in `waiting` the data from `done` on; what does not fit makes it `behind`."""
        viewer.rest = memoryview(data)[done:]
        viewer.stalled = self.clock()
        viewer.sent += done
        viewer.group.waiting.discard(viewer)
        viewer.group.behind.add(viewer)
        self._push(viewer)
        if viewer.rest is not None and self._held(viewer):
            self._selector.modify(viewer.sock, READ | WRITE, viewer)

    def _held(self, viewer: Viewer) -> bool:
        return self._viewers.get(viewer.fd) is viewer

    def _push(self, viewer: Viewer) -> None:
        """Sends of the rest what the socket takes."""
        assert viewer.rest is not None
        try:
            sent = viewer.sock.send(viewer.rest)
        except BlockingIOError:
            return
        except OSError:
            self._drop(viewer, "reset")
            return
        self.counters["sends"] += 1
        self.counters["bytes"] += sent
        viewer.sent += sent
        viewer.stalled = self.clock()
        if sent < len(viewer.rest):
            viewer.rest = viewer.rest[sent:]
            return
        viewer.rest = None
        viewer.group.behind.discard(viewer)
        viewer.group.waiting.add(viewer)
        self._written(viewer)

    def _writable(self, viewer: Viewer) -> None:
        if viewer.rest is not None:
            self._push(viewer)
        if self._held(viewer):
            self._selector.modify(viewer.sock, READ | WRITE if viewer.rest is not None else READ, viewer)

    def _written(self, viewer: Viewer) -> None:
        """A viewer in `waiting` has taken everything it was given."""
        if viewer.closing:
            self._end(viewer)
        else:
            self._catch_up(viewer)

    def _catch_up(self, viewer: Viewer) -> None:
        """Makes a viewer in `waiting` current, after what it has missed."""
        group = viewer.group
        with self.lock:
            if group.dirty:
                return  # the flush that is on its way takes it along
            at, head = viewer.at, group.log.head
            answer = group.log.news(group.names, at) if at < head else None
            group.cursor = head
        data = b""
        if answer is not None:
            viewer.at = answer.offset
            data = self._encode(group.log, answer)
            viewer.closing = answer.finished
            self._count_cause(answer.cause)
        if data:
            self._write(viewer, data)
        elif viewer.closing:
            self._end(viewer)
        else:
            group.waiting.discard(viewer)
            viewer.base = group.sent
            group.current[viewer.fd] = viewer
            if not group.last_sent:
                group.last_sent = self.clock()
            self._report(group)

    def _report(self, group: Group) -> None:
        if group.progress is not None and group.current:
            group.progress(group.cursor)

    def _readable(self, viewer: Viewer) -> None:
        # What a viewer sends is never parsed as a request. A little is let pass, a flood is not.
        try:
            data = viewer.sock.recv(DISCARD)
        except BlockingIOError:
            return
        except OSError:
            self._drop(viewer, "reset")
            return
        if not data:
            self._drop(viewer, "gone")
        elif len(data) == DISCARD:
            self._drop(viewer, "flood")

    def _tick(self) -> None:
        now = self.clock()
        for group in list(self._groups.values()):
            if group.current and now - group.last_sent >= self.settings.heartbeat:
                self._ping(group)
            for viewer in list(group.behind):
                if now - viewer.stalled > self.settings.stall:
                    self._drop(viewer, "stalled")
        for fd, (_, deadline) in list(self._lingering.items()):
            if now > deadline:
                self._linger_close(fd)

    def _ping(self, group: Group) -> None:
        with self.lock:
            if group.dirty:
                return
            group.cursor = group.log.head
        self._broadcast(group, sse.ping(f"{group.log.epoch}.{group.cursor}"))

    # How a viewer ends

    def _forget(self, viewer: Viewer, reason: str) -> bool:
        """Takes a viewer out of every index; its socket stays open."""
        if not self._held(viewer):
            return False
        del self._viewers[viewer.fd]
        group = viewer.group
        if group.current.pop(viewer.fd, None) is not None:
            self._settle_bytes(viewer)
        else:
            group.behind.discard(viewer)
            group.waiting.discard(viewer)
        self._selector.unregister(viewer.sock)
        self._addresses[viewer.address] -= 1
        if not self._addresses[viewer.address]:
            del self._addresses[viewer.address]
        self.counters[f"ended_{reason}"] += 1
        if viewer_logger.isEnabledFor(logging.INFO):
            viewer_logger.info(
                "viewer ended: address=%r channels=%r seconds=%.1f bytes=%d reason=%s",
                viewer.address, list(group.names), self.clock() - viewer.since, viewer.sent, reason,
            )  # fmt: skip
        if not len(group):
            with self.lock:
                self._groups.pop((group.log.epoch, group.names), None)
                for name in group.names:
                    groups = self._by_channel[group.log.epoch, name]
                    groups.remove(group)
                    if not groups:
                        del self._by_channel[group.log.epoch, name]
        self._recount(group, -1)
        return True

    def _drop(self, viewer: Viewer, reason: str) -> None:
        if self._forget(viewer, reason):
            viewer.sock.close()

    def _end(self, viewer: Viewer) -> None:
        """Closes after the last bytes were taken: FIN, then its FIN or the deadline."""
        if not self._forget(viewer, "end"):
            return
        sock = viewer.sock
        try:
            sock.shutdown(socket.SHUT_WR)
            self._selector.register(sock, READ, sock.fileno())
        except OSError:
            sock.close()
            return
        self._lingering[sock.fileno()] = (sock, self.clock() + DRAIN)

    def _linger_read(self, fd: int) -> None:
        sock, _ = self._lingering[fd]
        try:
            data = sock.recv(DISCARD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._linger_close(fd)

    def _linger_close(self, fd: int) -> None:
        sock, _ = self._lingering.pop(fd)
        self._selector.unregister(sock)
        sock.close()

    # How the hub ends

    def say_bye(self) -> None:
        """Ends every viewer with `bye`; called in the poller's thread when the process goes away."""
        # a few variants, so that not all pages come back in one moment
        byes = [sse.bye(int(self.settings.retry * (0.5 + i / 16)) + 500) for i in range(32)]
        for i, viewer in enumerate(list(self._viewers.values())):
            if viewer.rest is None:
                try:
                    viewer.sock.send(byes[i % len(byes)])
                except OSError:
                    pass
            if self._forget(viewer, "bye"):
                try:
                    viewer.sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                viewer.sock.close()

    def release(self) -> None:
        """Closes every socket at once, without a word on the wire (a forked child does this: they are its parent's)."""
        self.closed = True
        for viewer in self._viewers.values():
            viewer.sock.close()
        for sock, _ in self._lingering.values():
            sock.close()
        self._viewers.clear()
        self._lingering.clear()
        self._groups.clear()
        self._by_channel.clear()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()


def _least(a: float | None, b: float) -> float:
    return b if a is None else min(a, b)


def _tune(sock: socket.socket, heartbeat: float) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # a peer that vanished without a FIN is noticed by the unacknowledged heartbeat
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(heartbeat * 1500))
