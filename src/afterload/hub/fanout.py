"""Fan-out: who is served, and the writing to all of them.

Runs in the poller's thread; only `touch`, `count`, `room` and `hurry` are called from others. A publish marks the
groups that follow its channel as dirty. Each turn flushes the dirty groups, a group at most `flush_rate` times a
second, the first time at once: it asks the log what is new since the group's cursor, encodes that once, and sends
the same bytes to every viewer in `current`. Nothing else is touched for each viewer: no task, queue, lock or
allocation.

Where a viewer stands::

    adopted ──▶ waiting ──▶ first answer sent whole ──▶ current ◀─────────┐
                   │             │ short send               │ short send   │ at the group's cursor
                   │             ▼                          ▼              │
                   │           behind (rest, at) ◀──────────┘              │
                   │             │ rest sent                               │
                   └─────────────┴──▶ waiting ──▶ news since `at` sent ────┘
                                      (while the group is dirty: until its flush)

A viewer whose channels are over, or that is sent away, is `closing`: its rest, `shutdown(SHUT_WR)`, and then its FIN or
a deadline, so that the last bytes arrive and are not overtaken by a reset.

A poll that waits for news is current as any other, but nothing was written to it yet, nor its head: what a group is
sent it gets by itself, behind that, and is `closing`.
"""

from __future__ import annotations

import logging
import math
import random
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import cache, partial

from ..blocks import Hello
from ..log import Answer, Log, Step
from ..pipe import Pipe
from ..settings import Settings
from ..wire import poll, websocket
from .lingering import Lingering
from .poller import READ, WRITE, Poller
from .revocations import Revocations
from .sending import SEND_FLAGS, Sender, gil_keeping_send
from .viewer import Follow, Group, GroupKey, Viewer, Wire, expect, tune

logger = logging.getLogger("afterload.hub")
viewer_logger = logging.getLogger("afterload.viewer")

SPARE = 32  # descriptors that are left for others than viewers
DISCARD = 65_536  # more than this in one read is a flood
_YOUNGEST = 0.75  # of `max_age`: no viewer is sent away before
_SENT_AWAY = 500  # ms after which who was sent away comes back,
_EACH = 2  # and over how many for each of them that is spread: their views are all asked then

Key = tuple[str, str]


def jittered(milliseconds: int) -> int:
    """As long, and up to half as long again: so that not all come back in one moment."""
    return int(milliseconds * random.uniform(1, 1.5))  # noqa: S311 - spreads load, is no secret


class Fanout:
    """The viewers of a hub, and all writing to them.

    Args:
        settings: bounds and durations.
        poller: waits for their sockets.
        lock: guards the logs, and which groups there are.
        shared: the log of the shared channels; every other one is a private loop's.

    Attributes:
        viewers: all of them, by fd.
        groups: the same by what they follow, and on which wire.
        lingering: their sockets after the end.
        watchers: told of the number of a channel's viewers when it changes.
        progress: told, by the log's epoch, up to where the viewer of a private loop was served.
        left: clock time at which a watched channel lost its last viewer.
        counters: numbers since the start.
        written_through: the same of `write_through`, under the lock.
        descriptors_most: how many this process may have.
        processes: how many of them other processes have, who come to this hub.
        is_elsewhere: the shared channels are another hub's by now; who comes for them is sent away, and comes to that.
    """

    def __init__(self, settings: Settings, poller: Poller, lock: threading.Lock, shared: Log) -> None:
        self.settings = settings
        self.poller = poller
        self.lock = lock
        self.shared = shared
        self.clock = poller.clock
        self.viewers: dict[int, Viewer] = {}
        self.groups: dict[GroupKey, Group] = {}
        self.lingering = Lingering(poller)
        self.watchers: dict[Key, Callable[[int], None]] = {}
        self.progress: dict[str, Callable[[int], None]] = {}
        self.left: dict[Key, float] = {}
        self.counters: Counter[str] = Counter()
        self.written_through: Counter[str] = Counter()
        self.by_channel: dict[Key, list[Group]] = {}
        self._revocations = Revocations()
        self._counts: Counter[Key] = Counter()
        self._addresses: Counter[str] = Counter()
        self.descriptors_most: float = math.inf
        self.processes = 0
        self.is_elsewhere = False
        self._dirty: deque[Group] = deque()
        self._encoded: dict[Hashable, bytes] = {}
        self._answers: dict[Hashable, Answer] = {}
        self._sender = Sender(
            gil_keeping_send() or self._plain_send, lambda: self.settings.io_uring, self.clock
        )
        poller.each_turn = self.flush
        poller.each_tick = self._tick
        poller.busy = lambda: bool(self._dirty)
        poller.watching = lambda: bool(self.viewers or self.lingering)

    @property
    def descriptors(self) -> int:
        """How many descriptors viewers have, and the processes that have come."""
        return len(self.viewers) + len(self.lingering) + self.processes

    @property
    def is_full(self) -> bool:
        """Whether the next descriptor might be one too many."""
        return self.descriptors > self.descriptors_most - SPARE

    # Called from any thread

    def touch(self, log: Log, name: str) -> bool:
        """Marks the groups that follow a channel; called under the lock. Whether the poller has to wake."""
        for group in self.by_channel.get((log.epoch, name), ()):
            if not group.dirty:
                group.dirty = True
                self._dirty.append(group)
        return bool(self._dirty)

    def write_through(self, pipe: Pipe, name: str, data: bytes) -> bool:
        """Sends what was just written to a pipe, in the thread that wrote it, and under the lock. Whether all went.

        To wake the poller for each line of a template costs more than to send it. It is done while nothing else is on
        its way to the viewer, for a few pieces at once; what is left is the poller's.
        """
        for group in self.by_channel.get((pipe.epoch, name), ()):
            current = list(group.current.values())
            if group.dirty or group.sending or not current or pipe.is_burst(self.clock()):
                return False
            sent = self._sender.send(current[0].fd, data, len(data), SEND_FLAGS)
            if sent > 0:
                group.cursor += sent
                group.sent += sent
                pipe.forget(group.cursor)
                self.written_through["sends"] += 1
                self.written_through["bytes"] += sent
            return sent == len(data)
        return False

    def count(self, log: Log, name: str) -> int:
        """How many viewers follow a channel."""
        return self._counts[log.epoch, name]

    def room(self, address: str) -> bool:
        """Whether one more viewer may be held."""
        s = self.settings
        most = self.descriptors_most * 0.75
        if self.processes:  # below the number at which nothing is taken from them any more
            most = min(most, self.descriptors_most - 2 * SPARE)
        if len(self.viewers) >= s.max_viewers or self.descriptors > most:
            return False
        return not s.max_viewers_per_address or self._addresses[address] < s.max_viewers_per_address

    def hurry(self, log: Log, name: str) -> None:
        """Flushes a channel's groups without waiting for their next turn."""

        def command() -> None:
            for group in self.by_channel.get((log.epoch, name), ()):
                if group.dirty:
                    group.next_flush = 0.0
                    self._dirty.append(group)

        self.poller.call(command)

    # Connecting

    def adopt(self, sock: socket.socket, follow: Follow) -> None:
        """Takes a connected socket for good: `hello`, what it has missed, and then what comes."""
        follow = follow.within(self.shared)
        try:
            sock.setblocking(False)
            tune(sock, self._patience)
        except OSError:
            sock.close()  # gone before it was here
            return
        try:
            self._take_in(sock, follow)
        except Exception:
            held = self.viewers.get(sock.fileno())
            if held is not None and held.sock is sock:
                self._drop(held, "error")
            sock.close()
            group = self.groups.get(follow.key)
            if group is not None and not len(group):
                self._remove_group(group)
            raise

    @property
    def _patience(self) -> float:
        """Seconds for which a heartbeat may go unacknowledged: who has vanished is gone after 2.5 of them.

        Silence is looked for once a second.
        """
        heartbeat = self.settings.heartbeat
        return max(1.5 * heartbeat - 1, 0.5 * heartbeat)

    def _take_in(self, sock: socket.socket, follow: Follow) -> None:
        log, names, wire = follow.log, follow.names, follow.wire
        assert log is not None
        if log is not self.shared:
            # A private loop has one viewer: who comes with its key is the same page, back before we noticed
            # that its old connection is gone.
            for group in list(self.by_channel.get((log.epoch, names[0]), ())):
                for old in group.viewers():
                    self._drop(old, "replaced")
            served = self.progress.get(log.epoch)
            if served is not None and follow.at:
                self.poller.safely(served, follow.at)
        group = self.groups.get(follow.key) or self._new_group(follow)
        viewer = Viewer(sock, group, follow, self.clock())
        asked = ("connect", log.epoch, names, follow.at, follow.rendered, follow.foreign, follow.painted)
        with self.lock:
            # All pages come back at once when a server was restarted, most of them from the same place.
            answer = self._answers.get((log.head, asked)) or log.connect(
                names, follow.at, rendered=follow.rendered, foreign=follow.foreign, painted=follow.painted
            )
        key: Hashable = (answer.offset, asked)
        self._answers[key] = answer
        shared = names if log is self.shared else ()
        sent_away = "moved" if shared and self.is_elsewhere else ""
        if self._revocations.concern(follow.asked, shared, follow.owner):
            sent_away = "revoked"
        if sent_away:  # it is given nothing, as a view is to have its say once more, or nothing here is true
            answer, key = Answer((), answer.offset, finished=False, cause=""), None
        viewer.at = answer.offset
        hold = follow.hold and not sent_away and self.room(follow.address)
        viewer.closing = sent_away or ("end" if answer.finished or not hold or wire.ONCE else "")
        self.poller.register(sock, viewer)  # first: the system may refuse
        self.viewers[viewer.fd] = viewer
        group.waiting.add(viewer)
        self._addresses[viewer.address] += 1
        self.counters["connects"] += 1
        self.counters["bytes"] += follow.sent
        self._recount(group, 1)
        hello = self._hello(follow, answer)
        steps = self._encode(group, answer, key)
        if wire.ONCE and hold and follow.wait is not None and not answer.has_news:
            self._hold_back(viewer, follow.head, hello + steps, follow.wait)
            return
        data = follow.head + follow.opening + hello + steps
        if wire.ONCE and hold and not answer.steps:
            data += wire.ping(f"{log.epoch}.{answer.offset}")  # or it would be asked again from where it was
        if (shown := group.shown) is not None:
            first = len(group) == 1
            data += self.guarded(lambda: shown.part(answer.steps, now=True) if first else shown.joined())
        if not hold and not answer.finished:
            data += wire.bye(jittered(_SENT_AWAY if sent_away else self.settings.short_retry))
            if follow.shown is not None:
                data += follow.shown.again()
            viewer.ending = b""
        self._write(viewer, data)

    def _hold_back(self, viewer: Viewer, head: bytes, begun: bytes, wait: float) -> None:
        """What is answered once waits for something new."""
        viewer.closing = ""
        until = self.clock() + wait
        viewer.unsent = head, begun, until
        self._catch_up(viewer)
        if wait:
            # By its number: most have been answered by then, and are not to be kept until their time is up.
            self.poller.at(until, partial(self._answer_nothing, viewer.fd))
        else:
            self._answer_nothing(viewer.fd)

    def _answer_nothing(self, fd: int) -> None:
        """Tells a viewer that is answered once that there was nothing new, if it still waits and its time is up."""
        viewer = self.viewers.get(fd)
        if viewer is None or viewer.unsent is None or self.clock() < viewer.unsent[2]:
            return
        # Where its group is to be flushed in a moment, it is not current. What comes then it gets when it asks again.
        if viewer.fd in viewer.group.current:
            self._leave_current(viewer)
        head, begun, _ = viewer.unsent
        viewer.unsent = None
        viewer.closing, viewer.ending = "end", b""
        # Where a server writes the head, it has said 200.
        self._write(viewer, poll.nothing(head) if head else begun + poll.ENDING)

    def _hello(self, follow: Follow, answer: Answer) -> bytes:
        return follow.wire.hello(
            Hello(
                channels=follow.names,
                heartbeat=self._heartbeat(follow.wire),
                position=follow.position,
                resumed=bool(follow.at) and not follow.rendered and answer.cause in ("", "state"),
                into=follow.into,
                retry=jittered(self.settings.retry),
            )
        )

    def _heartbeat(self, wire: Wire) -> float:
        return min(self.settings.heartbeat, wire.HEARTBEAT)

    def _new_group(self, follow: Follow) -> Group:
        log, names = follow.log, follow.names
        assert log is not None
        group = Group(log, names, follow.wire, follow.shown, self.progress.get(log.epoch), self._ready)
        with self.lock:
            self.groups[group.key] = group
            for name in names:
                self.by_channel.setdefault((log.epoch, name), []).append(group)
        return group

    def _recount(self, group: Group, by: int) -> None:
        for name in group.names:
            key = group.log.epoch, name
            self._counts[key] += by
            count = self._counts[key]
            if not count:
                del self._counts[key]
            watcher = self.watchers.get(key)
            if watcher is not None:
                if not count:
                    self.left[key] = self.clock()
                self.poller.safely(watcher, count)

    def _encode(self, group: Group, answer: Answer, key: Hashable = None) -> bytes:
        """An answer's bytes; once in each turn for all who get the same, by key, on the same wire."""
        wire = group.wire
        data = self._encoded.get((wire, key)) if key is not None else None
        if data is None:
            data = b"".join([wire.step(step, group.log.epoch) for step in answer.steps])
            if key is not None:
                self._encoded[wire, key] = data
        if answer.cause:
            self.counters[f"answers_{answer.cause}"] += 1
        return data

    # Writing to groups

    def flush(self) -> None:
        """Sends the dirty groups what is new, or puts them off until they may be flushed again."""
        self._encoded.clear()
        self._answers.clear()
        for _ in range(len(self._dirty)):
            group = self._dirty.popleft()
            now = self.clock()
            if now < group.next_flush:
                self.poller.at(group.next_flush, lambda g=group: self._dirty.append(g))  # type: ignore[misc]
            elif group.dirty:
                group.next_flush = now + 1 / self.settings.flush_rate
                self.poller.safely(self._flush, group)

    def _flush(self, group: Group) -> None:
        """Brings a group what is new."""
        try:
            self._bring(group)
        except BaseException:
            self._drop_all(group)
            raise
        finally:
            group.sending = False

    def _bring(self, group: Group) -> None:
        log = group.log
        with self.lock:
            group.dirty = False
            if not len(group):
                return
            key = log.news_key(group.names, group.cursor)
            data = self._encoded.get((group.wire, key)) if key is not None and group.shown is None else None
            answer = None if data is not None else log.news(group.names, group.cursor)
            group.cursor = log.head
            group.sending = True
        if answer is not None:
            data = self._encode(group, answer, key)
            if group.shown is not None:
                data += self._part(group, answer.steps, now=answer.finished)
        if data and group.wire.ONCE:
            for viewer in list(group.current.values()):
                self._leave_current(viewer)
                self._write(viewer, data)
        elif data:
            self._broadcast(group, data)
        if answer is not None and answer.finished:
            self._finish(group)
        for viewer in list(group.waiting):
            self.poller.safely(self._catch_up_or_drop, viewer)
        self._report(group)

    def _part(self, group: Group, steps: Iterable[Step] = (), now: bool = False) -> bytes:
        """What a group's pages are to show where scripts do not run; who does not get it now is noted."""
        assert group.shown is not None
        shown = group.shown
        data = self.guarded(lambda: shown.part(steps, now))
        if data:
            shown.missed |= group.behind | group.waiting
        return data

    def guarded(self, say: Callable[[], bytes]) -> bytes:
        """What is shown without scripts: an extra, so a failure there must not cost anybody what else there is."""
        try:
            return say()
        except Exception:
            self.poller.errors += 1
            logger.exception("afterload: an error in what is shown without scripts; it goes on")
            return b""

    def _finish(self, group: Group) -> None:
        """The group has been sent the end of the last of its channels."""
        for viewer in group.behind:
            if viewer.at == group.cursor:  # its rest is the rest of that; others get it when they catch up
                viewer.closing = viewer.closing or "end"
        for viewer in list(group.current.values()):
            if viewer.ending:
                self._leave_current(viewer)
            self._end(viewer)

    def _leave_current(self, viewer: Viewer) -> None:
        """A current viewer gets bytes of its own."""
        group = viewer.group
        del group.current[viewer.fd]
        viewer.sent += group.sent - viewer.base
        viewer.at = group.cursor
        group.waiting.add(viewer)

    def _broadcast(self, group: Group, data: bytes) -> None:
        """The hot path: the same bytes for each viewer."""
        size = len(data)
        group.last_sent = self.clock()
        late = self._sender.send_all(group.current, data)
        group.sent += size
        count = len(group.current) - len(late)
        self.counters["sends"] += count
        self.counters["bytes"] += count * size
        if self._sender.batched:
            self.counters["batched"] = self._sender.batched
        for fd, sent in late:
            viewer = group.current[fd]
            self._leave_current(viewer)
            viewer.sent -= size
            self._write(viewer, data, max(sent, 0))

    def _plain_send(self, fd: int, data: bytes, size: int, flags: int) -> int:
        try:
            return self.viewers[fd].sock.send(data)
        except OSError:
            return -1

    def _report(self, group: Group) -> None:
        if group.progress is not None and group.current:
            group.progress(group.cursor)

    # Writing to one viewer

    def _write(self, viewer: Viewer, data: bytes, done: int = 0) -> None:
        """Sends a viewer in `waiting` the data from `done` on; what is not taken makes it `behind`."""
        if viewer.unsent is not None:
            data = b"".join([*viewer.unsent[:2], data])
            viewer.unsent = None
            viewer.closing = viewer.closing or "end"
        viewer.rest = memoryview(data)[done:]
        viewer.stalled = self.clock()
        viewer.sent += done
        viewer.group.waiting.discard(viewer)
        viewer.group.behind.add(viewer)
        if self._push(viewer):
            self.poller.want(viewer.sock, READ | WRITE)
            expect(viewer.sock, 0)  # `stall` counts from now on

    def _push(self, viewer: Viewer) -> bool:
        """Sends of the rest what the socket takes. True if some of it has to wait."""
        assert viewer.rest is not None
        try:
            sent = viewer.sock.send(viewer.rest)
        except BlockingIOError:
            return True
        except OSError:
            self._drop(viewer, "reset")
            return False
        self.counters["sends"] += 1
        self.counters["bytes"] += sent
        viewer.sent += sent
        viewer.stalled = self.clock()
        if sent < len(viewer.rest):
            viewer.rest = viewer.rest[sent:]
            return True
        viewer.rest = None
        viewer.group.behind.discard(viewer)
        viewer.group.waiting.add(viewer)
        self._catch_up(viewer)
        return False

    def _catch_up(self, viewer: Viewer) -> None:
        """Makes a viewer in `waiting`, which has taken all it was given, current; after what it has missed."""
        if viewer.inbound is not None and viewer.inbound.reply:
            data, viewer.inbound.reply = viewer.inbound.reply, b""
            self._write(viewer, data)
            return
        if viewer.closing:
            self._end(viewer)
            return
        group = viewer.group
        with self.lock:
            if group.dirty:
                return  # the flush that is on its way takes it along
            group.cursor = group.log.head
            answer = group.log.news(group.names, viewer.at) if viewer.at < group.cursor else None
        data = b""
        if answer is not None:
            viewer.at = answer.offset
            viewer.closing = "end" if answer.finished else ""
            data = self._encode(group, answer)
        if group.shown is not None and viewer in group.shown.missed:
            group.shown.missed.discard(viewer)
            data += self.guarded(group.shown.whole)
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

    def _catch_up_or_drop(self, viewer: Viewer) -> None:
        try:
            self._catch_up(viewer)
        except Exception:
            self._drop(viewer, "error")
            raise

    def _held(self, viewer: Viewer) -> bool:
        return self.viewers.get(viewer.fd) is viewer

    # What comes from viewers

    def _ready(self, viewer: Viewer, mask: int) -> None:
        try:
            if mask & READ and self._held(viewer):
                self._read(viewer)
            if not mask & WRITE or not self._held(viewer) or self._push(viewer):
                return
            # unless it is gone, or was given more to write when it caught up
            if self._held(viewer) and viewer.rest is None:
                self.poller.want(viewer.sock, READ)
                expect(viewer.sock, self._patience)
        except Exception:
            self._drop(viewer, "error")
            raise

    def _read(self, viewer: Viewer) -> None:
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
        elif viewer.group.wire is websocket:
            self._hear(viewer, data)

    def _hear(self, viewer: Viewer, data: bytes) -> None:
        """What a client says on a WebSocket: pings, and that it closes; all else is read and forgotten."""
        inbound = viewer.inbound = viewer.inbound or websocket.Inbound()
        inbound.feed(data)
        if inbound.closing:
            viewer.closing, viewer.ending = "closed", b""
        if not (inbound.reply or inbound.closing) or viewer.rest is not None:
            return
        if viewer.fd in viewer.group.current:
            self._leave_current(viewer)
        self._catch_up(viewer)

    def _tick(self) -> None:
        """Heartbeats, stalled viewers, and peers that do not close."""
        now = self.clock()
        for group in list(self.groups.values()):
            if (
                group.current
                and not group.wire.ONCE
                and (
                    now - group.last_sent >= self._heartbeat(group.wire) or (group.shown and group.shown.owes)
                )
            ):
                self._ping(group)
            for viewer in list(group.behind):
                if now - viewer.stalled > self.settings.stall:
                    self._drop(viewer, "stalled")
        self._send_away_the_old(now)
        self._revocations.forget(now)
        self.lingering.tick(now)

    def _send_away_the_old(self, now: float) -> None:
        """Has the view asked again, a while after it was: a login may have expired."""
        most = self.settings.max_age
        if not most:
            return
        old = []
        for viewer in self.viewers.values():  # who came first stands first
            age = now - viewer.since
            if age < most * _YOUNGEST:
                break
            # spread, but the same at each look, so that who came together does not come back together
            if age > most * (_YOUNGEST + (1 - _YOUNGEST) * (hash(viewer) % 997) / 997):
                old.append(viewer)
        for viewer in old:
            if viewer.group.wire.LASTS:
                self._send_away(viewer, "age")

    def revoke(self, names: Collection[str], owner: str | None) -> None:
        """Sends viewers away who follow one of these shared channels, or belong to this owner; their view is asked.

        Those as well whose view is having its say just now: it may not know yet.
        """
        self._revocations.add(names, owner, self.clock())
        found: list[Viewer] = []
        for group in self.groups.values():
            if group.log is self.shared and not set(names).isdisjoint(group.names):
                found += group.viewers()
            elif owner is not None:
                found += [viewer for viewer in group.viewers() if viewer.owner == owner]
        self._send_all_away(found, "revoked")

    def move(self) -> None:
        """Sends those away who follow shared channels, which are another hub's by now; they come to that one."""
        groups = [group for group in self.groups.values() if group.log is self.shared]
        found = [viewer for group in groups for viewer in group.viewers()]
        self._send_all_away(found, "moved")

    def _send_all_away(self, viewers: Sequence[Viewer], why: str) -> None:
        for viewer in viewers:
            self._send_away(viewer, why, most=max(_SENT_AWAY // 2, len(viewers) * _EACH))

    def _send_away(self, viewer: Viewer, why: str, most: int = _SENT_AWAY // 2) -> None:
        """Ends a viewer with `bye`, behind what it has been given; at most so many ms make its return later."""
        if viewer.closing:
            return
        group = viewer.group
        if viewer.fd in group.current:
            self._leave_current(viewer)
        viewer.closing, viewer.ending = why, group.wire.bye(_SENT_AWAY + random.randint(0, most))  # noqa: S311
        if group.shown is not None:
            viewer.ending += group.shown.again()
        if viewer.rest is None:
            self._end(viewer)

    def _ping(self, group: Group) -> None:
        with self.lock:
            if group.dirty:
                return
            group.cursor = group.log.head
        data = group.wire.ping(f"{group.log.epoch}.{group.cursor}")
        if group.shown is not None:
            data += self._part(group)
        if not data:
            group.last_sent = self.clock()
            return
        try:
            self._broadcast(group, data)
        except BaseException:
            self._drop_all(group)
            raise

    # How a viewer ends

    def _forget(self, viewer: Viewer, reason: str) -> bool:
        """Takes a viewer out of every index; its socket stays open."""
        if not self._held(viewer):
            return False
        del self.viewers[viewer.fd]
        group = viewer.group
        with self.lock:  # or `write_through` might send to a descriptor that is another's by then
            was_current = group.current.pop(viewer.fd, None) is not None
        if was_current:
            viewer.sent += group.sent - viewer.base
        group.behind.discard(viewer)
        group.waiting.discard(viewer)
        if group.shown is not None:
            group.shown.missed.discard(viewer)
        self.poller.unregister(viewer.sock)
        self._addresses[viewer.address] -= 1
        if not self._addresses[viewer.address]:
            del self._addresses[viewer.address]
        self.counters[f"ended_{reason}"] += 1
        viewer_logger.info(
            "viewer ended: address=%r channels=%r seconds=%.1f bytes=%d reason=%s",
            viewer.address,
            group.names,
            self.clock() - viewer.since,
            viewer.sent,
            reason,
        )
        if not len(group):
            self._remove_group(group)
        self._recount(group, -1)
        return True

    def _remove_group(self, group: Group) -> None:
        with self.lock:
            del self.groups[group.key]
            for name in group.names:
                groups = self.by_channel[group.log.epoch, name]
                groups.remove(group)
                if not groups:
                    del self.by_channel[group.log.epoch, name]

    def _drop_all(self, group: Group) -> None:
        """After an error, when nobody knows what each of them has: they come back from where they are."""
        for viewer in group.viewers():
            self._drop(viewer, "error")

    def _drop(self, viewer: Viewer, reason: str) -> None:
        if self._forget(viewer, reason):
            viewer.sock.close()

    def _end(self, viewer: Viewer) -> None:
        """Closes after the last bytes were taken: our FIN, then its FIN or the deadline."""
        if viewer.ending:
            data, viewer.ending = viewer.ending, b""
            viewer.closing = viewer.closing or "end"
            self._write(viewer, data)
            return
        if self._forget(viewer, viewer.closing or "end"):
            self.lingering.add(viewer.sock)

    def say_bye(self) -> None:
        """Ends every viewer with `bye`, as the process goes away."""
        # some variants, so that not all pages come back in one moment
        delays = [500 + self.settings.retry * (8 + i) // 16 for i in range(32)]
        byes = cache(lambda wire, i: wire.bye(delays[i]))
        for i, viewer in enumerate(list(self.viewers.values())):
            try:
                if viewer.rest is None:
                    begun = b"".join((viewer.unsent or ())[:2])
                    again = viewer.group.shown.again() if viewer.group.shown is not None else b""
                    viewer.sock.send(begun + byes(viewer.group.wire, i % len(delays)) + again)
                viewer.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it went first
            self._drop(viewer, "bye")

    def release(self) -> None:
        """Closes every socket without a word: in a forked child they are copies of its parent's."""
        for viewer in self.viewers.values():
            viewer.sock.close()
        self.viewers.clear()
        self.lingering.release()
        self._sender.close()
        self.groups.clear()
        self.by_channel.clear()
