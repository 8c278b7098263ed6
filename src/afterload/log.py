"""The log of a namespace: numbered entries of its channels, their state, and what a viewer at a position gets.

Pure: no sockets, threads or clocks; the hub calls it under its lock.

All shared channels of a namespace stand in one log, so one position, ``epoch.offset``, is good for any number
of them. A private loop has a log of its own with one channel, ``~``; its epoch is the loop's key.

What a viewer is told is an `Answer`: a list of items to encode, in order. The rule behind every one of them:
**the position that goes out with an item is a promise** that its receiver has everything up to it. So when an
answer is cut between two items, what the next connect repeats must be something that does no harm twice.

For each channel, by where the viewer is (`at`):

======================================  ===========================================================
history reaches back to `at`            the entries themselves, merged (gap-free: effects too)
state is unbroken since `at`            what of the state is newer than `at` (no effects)
anything else, and it is *complete*     reset, snapshot: the state, on the page as it was served
as served (`rendered`), a run's         snapshot, as its page's HTML knows nothing of the run
the same, and the page was painted      what is newer, and what stands for itself; refresh if it is older
as served, a published topic            what is newer, and what stands for itself
no position                             snapshot
anything else (memory lost, too old)    refresh: the page's own HTML is the snapshot
======================================  ===========================================================

A *run* is a channel written by one loop, and so *complete* from its beginning: the state is all that a page has to get,
as it was served. A *topic* is published to by anybody, and what was before this log began is known only to the app's
view; it is complete since `restore` was told. A page is *painted* with a channel if its HTML was made from the state,
and so shows everything up to its position.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from .errors import PatchError
from .patch import EFFECTS, Patch
from .state import State, compact
from .values import short

OPEN = "open"
PRIVATE = "~"  # the one channel of a log that is a private loop's
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of one channel, applied on what the page shows; `since` is the sequence number before them."""

    channel: str
    seq: int
    patches: Sequence[Patch]
    since: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a channel's state, applied on what the page was served with."""

    channel: str
    seq: int
    patches: Sequence[Patch]


@dataclass(frozen=True, slots=True)
class Reset:
    """What the channel brought to the page is void; what it was served with comes back."""

    channel: str


@dataclass(frozen=True, slots=True)
class Message:
    """A plain string."""

    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a response that is nothing but text."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Refresh:
    """The page has to fetch itself."""


@dataclass(frozen=True, slots=True)
class End:
    """A channel is over."""

    channel: str
    status: str
    message: str


Item = Patches | Snapshot | Reset | Message | Piece | Refresh | End


@dataclass(frozen=True, slots=True)
class Step:
    """Items that are encoded together; who has them has everything up to `offset` (None: no promise)."""

    items: tuple[Item, ...]
    offset: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a viewer gets.

    Attributes:
        steps: what to send, in order.
        offset: where the viewer is afterwards.
        finished: every channel is over: nothing will follow.
        cause: why it is not the plain entries: "", "state", "snapshot" or "refresh".
        has_news: there is more in it than ends that the viewer was told of before, and is when it connects.
    """

    steps: tuple[Step, ...]
    offset: int
    finished: bool
    cause: str
    has_news: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """What one publish added.

    Attributes:
        offset: its number in the log.
        seq: its number among those of its channel that have patches.
        patches: applied together.
        size: bytes, roughly.
        overflowed: the channel's state was more than its bound with it, and begins anew.
    """

    offset: int
    seq: int
    patches: tuple[Patch, ...]
    size: int
    overflowed: bool


class Channel:
    """One channel of a log; see `Log`.

    Attributes:
        run: written by one loop, so the state is complete from `floor`.
        restored: the state has a base that the app has given, so it is complete as well.
        floor: the state is unbroken since this offset.
        dropped: entries up to this offset are no longer in `entries`.
        ended: offset of the end, 0 while open.
    """

    __slots__ = (
        "bytes", "dropped", "ended", "entries", "floor", "message", "name", "restored", "run", "seq", "state",
        "status",
    )  # fmt: skip

    def __init__(self, name: str, floor: int, state: State) -> None:
        self.name = name
        self.seq = 0
        self.status = OPEN
        self.message = ""
        self.entries: deque[Entry] = deque()
        self.bytes = 0
        self.run = False
        self.restored = False
        self.floor = floor
        self.dropped = floor
        self.ended = 0
        self.state = state

    @property
    def complete(self) -> bool:
        """Whether the state brings any page, as it was served, to what the channel shows."""
        return self.run or self.restored


@dataclass(frozen=True, slots=True)
class Present:
    """What a channel shows at present; see `Log.present`.

    Attributes:
        run: a loop writes it.
        complete: nothing is missing in it.
        parts: of its state; see `State.parts`.
    """

    run: bool
    complete: bool
    parts: Sequence[tuple[int, Patch]]


class Log:
    """Numbered entries of a set of channels.

    Args:
        epoch: one unbroken life of this log; part of every position.
        history: entries kept for each channel.
        history_bytes: the same in bytes.
        state_bytes: bound on each channel's state.
        state_cells: the same in patches.
        max_channels: channels remembered; `trim` forgets the quietest beyond it.

    Attributes:
        served: no entry behind this offset is dropped, as the one reader has yet to get it. Who writes has to wait.
    """

    __slots__ = (
        "channels", "epoch", "forgotten", "head", "history", "history_bytes", "max_channels", "served",
        "state_bytes", "state_cells",
    )  # fmt: skip

    def __init__(
        self,
        epoch: str,
        *,
        history: int = 1000,
        history_bytes: int = 262_144,
        state_bytes: int = 262_144,
        state_cells: int = 2000,
        max_channels: int = 10_000,
    ) -> None:
        self.epoch = epoch
        self.head = 0
        self.channels: dict[str, Channel] = {}
        self.forgotten = 0
        self.served: float = math.inf
        self.history = history
        self.history_bytes = history_bytes
        self.state_bytes = state_bytes
        self.state_cells = state_cells
        self.max_channels = max_channels

    def _channel(self, name: str) -> Channel:
        channel = self.channels.get(name)
        if channel is None:
            # A channel unknown so far had no entries since the last one that was forgotten.
            state = State(self.state_bytes, self.state_cells)
            channel = self.channels[name] = Channel(name, self.forgotten, state)
        return channel

    def append(self, name: str, patches: tuple[Patch, ...]) -> Entry:
        """Adds an entry to a channel, which is made if it is new.

        A finished channel that is published to is open again.
        """
        channel = self._channel(name)
        if channel.ended:
            channel.status, channel.message, channel.ended = OPEN, "", 0
        self.head += 1
        # A plain string has no line of its own on the wire, so it has no number that could be missed.
        channel.seq += any(patch.action != "message" for patch in patches)
        size = 0
        for patch in patches:
            size += len(patch.target) + 64 + (len(patch.content) if isinstance(patch.content, str) else 8)
            channel.state.apply(patch, self.head)
        overflowed = channel.state.overflowed
        if overflowed:
            channel.state.clear()
            channel.floor = self.head
            channel.run = channel.restored = False
        entry = Entry(self.head, channel.seq, patches, size, overflowed)
        entries = channel.entries
        entries.append(entry)
        channel.bytes += size
        while entries[0].offset <= self.served and (
            len(entries) > self.history or (channel.bytes > self.history_bytes and len(entries) > 1)
        ):
            gone = entries.popleft()
            channel.bytes -= gone.size
            channel.dropped = gone.offset
        return entry

    def begin(self, name: str) -> None:
        """A loop begins to write the channel: what was in it before is void."""
        new = name not in self.channels
        channel = self._channel(name)
        channel.run = True
        channel.restored = False
        if new and not self.forgotten:
            return  # no page can show an earlier run
        self.head += 1
        channel.status, channel.message, channel.ended = OPEN, "", 0
        channel.entries.clear()
        channel.bytes = 0
        channel.state.clear()
        channel.floor = channel.dropped = self.head

    def finish(self, name: str, status: str, message: str = "") -> None:
        """The channel is over: `status` is ``done``, ``failed`` or ``cancelled``."""
        channel = self._channel(name)
        self.head += 1
        channel.status, channel.message, channel.ended = status, message, self.head

    def present(self, name: str) -> Present:
        """What a channel shows at present."""
        channel = self.channels.get(name)
        if channel is None:
            return Present(False, False, ())
        return Present(channel.run, channel.complete, channel.state.parts())

    def lacks(
        self, names: Sequence[str], at: int | None, *, rendered: bool = False, foreign: bool = False
    ) -> list[str]:
        """Which of these channels have no state for a viewer that connects; see `connect`, and `restore`."""
        if at is not None and at > self.head:
            at, foreign = None, True
        return [
            name for name in names if self._is_lacking(*self._plan(name, at, rendered, foreign, False), at)
        ]

    @staticmethod
    def _is_lacking(plan: str, channel: Channel | None, at: int | None) -> bool:
        return plan == "refresh" or (at is None and (channel is None or not channel.complete))

    def restore(self, name: str, at: int, patches: Iterable[Patch]) -> bool:
        """Gives the state of a channel a base: what brings pages, as they were served, to what it shows.

        Nothing, if it is complete already.

        Args:
            name: of the channel; it is made if it is new.
            at: where the log was before the base was made, or earlier: what was added since is added to it.
            patches: the base.

        Returns:
            False if what was added since is not all remembered, so that it has to be made once more.

        Raises:
            PatchError: it is more than a state may hold, or has effects.
        """
        channel = self._channel(name)
        if channel.complete:
            return True
        if not channel.dropped <= at <= self.head:
            return False
        state = State(self.state_bytes, self.state_cells)
        base = list(patches)
        newer = [
            (entry.offset, patch) for entry in channel.entries if entry.offset > at for patch in entry.patches
        ]
        for offset, patch in [*((at, patch) for patch in base), *newer]:
            state.apply(patch, offset)
            if state.overflowed:
                raise PatchError(
                    f"the snapshot of {name!r} is more than {self.state_bytes} bytes or {self.state_cells} patches: "
                    "bring less to the page, or raise state_bytes and state_cells"
                )
        for patch in base:
            if patch.action in EFFECTS:
                raise PatchError(
                    f"the snapshot of {name!r} is to be state, and {patch.action!r} is an effect",
                    action=patch.action,
                )
        channel.state, channel.floor, channel.restored = state, at, True
        return True

    def trim(self, in_use: Iterable[str]) -> None:
        """Forgets the channels longest unpublished, beyond `max_channels`; those in use are kept."""
        excess = len(self.channels) - self.max_channels
        if excess <= 0:
            return
        used = set(in_use)
        quiet = sorted((c for c in self.channels.values() if c.name not in used), key=_last)
        for channel in quiet[:excess]:
            del self.channels[channel.name]
            self.forgotten = max(self.forgotten, _last(channel))

    def at_end(self, names: Sequence[str], at: int) -> bool:
        """Whether all of these channels are over and a page at `at` has all of them."""
        channels = [self.channels.get(name) for name in names]
        return bool(channels) and all(c is not None and c.ended and c.ended <= at for c in channels)

    def connect(
        self,
        names: Sequence[str],
        at: int | None,
        *,
        rendered: bool = False,
        foreign: bool = False,
        painted: Collection[str] = (),
    ) -> Answer:
        """What a viewer that connects gets first.

        Args:
            names: the channels it follows.
            at: its position in this log, or None.
            rendered: its page was served at that position and has had nothing since.
            foreign: it has a position, but of another log: its page shows something unknown.
            painted: the channels that its page, as served at that position, shows everything of.
        """
        if at is not None and at > self.head:
            at, foreign = None, True
        plans = [self._plan(name, at, rendered, foreign, name in painted) for name in names]
        return self._answer(names, plans, self.head if at is None else at, connecting=True)

    def news(self, names: Sequence[str], at: int) -> Answer:
        """What a connected viewer that has everything up to `at` gets next."""
        plans = [self._plan(name, at, False, False, False) for name in names]
        return self._answer(names, plans, at, connecting=False)

    def news_key(self, names: Sequence[str], at: int) -> tuple[object, ...] | None:
        """Names the news since `at` where they are plain entries, so that groups with the same share the bytes."""
        key: list[object] = [self.epoch]
        for name in names:
            channel = self.channels.get(name)
            if channel is None:
                continue
            if channel.ended > at or at < channel.dropped:
                return None
            first = None
            for entry in reversed(channel.entries):
                if entry.offset <= at:
                    break
                first = entry.offset
            if first is not None:
                key.append((name, first, channel.entries[-1].offset))
        return tuple(key)

    def _plan(
        self, name: str, at: int | None, rendered: bool, foreign: bool, painted: bool
    ) -> tuple[str, Channel | None]:
        channel = self.channels.get(name)
        if channel is None:
            known = at is not None and at >= self.forgotten
            return ("refresh" if foreign or (at is not None and not known) else "nothing"), None
        anew = "reset" if channel.complete else "refresh"
        if at is None:
            return (anew if foreign else "snapshot"), channel
        if rendered and painted:
            # Its own HTML has what an earlier run has brought, so that cannot be put back.
            return ("fresh" if at >= channel.floor else "refresh"), channel
        if rendered and channel.run:
            return "snapshot", channel
        if rendered:
            return ("fresh" if at >= channel.floor else anew), channel
        if at >= channel.dropped:
            return "entries", channel
        if at >= channel.floor:
            return "state", channel
        return anew, channel

    def _answer(
        self, names: Sequence[str], plans: list[tuple[str, Channel | None]], at: int, *, connecting: bool
    ) -> Answer:
        kinds = {kind for kind, _ in plans}
        channels = [channel for _, channel in plans if channel is not None]
        ends = [
            End(c.name, c.status, c.message) for c in channels if c.ended and (connecting or c.ended > at)
        ]
        finished = len(channels) == len(names) and all(c.ended for c in channels)
        # The page must not be past the end before it has been told how it ended.
        cap = max(c.ended for c in channels) - 1 if finished else self.head
        steps: list[Step] = []
        cause = ""
        if "refresh" in kinds:
            cause = "refresh"
            steps.append(Step((Refresh(),), None))
            steps += [Step(items, None) for items in _messages(channels)]
        elif kinds <= {"entries", "nothing"}:
            steps += _replay(channels, at)
        else:
            cause = "snapshot" if kinds & {"snapshot", "reset"} else "state"
            steps += self._states(plans, at, cap)
        told = all(
            kind in ("entries", "state") and channel.ended <= at
            for kind, channel in plans
            if channel is not None and channel.ended
        )
        has_news = bool(steps) or finished or not told
        if ends and (finished or cause != "refresh"):
            # Behind what the channel has left: how it ended is the last that is said of it.
            steps.append(Step(tuple(ends), self.head))
        return Answer(tuple(steps), self.head, finished, cause, has_news)

    def _states(self, plans: list[tuple[str, Channel | None]], at: int, cap: int) -> list[Step]:
        snapshots: list[Item] = []
        patches: list[Item] = []
        for kind, channel in plans:
            if channel is None:
                continue
            if kind in ("snapshot", "reset"):
                # A page that was cut off before its first promise may show an earlier run, and does not say so.
                if kind == "reset" or channel.floor > at:
                    snapshots.append(Reset(channel.name))
                if whole := channel.state.whole():
                    snapshots.append(Snapshot(channel.name, channel.seq, whole))
                continue
            if kind == "entries":
                newer = [
                    p for e in channel.entries if e.offset > at for p in e.patches if p.action != "message"
                ]
                found = compact(newer)
            elif kind == "fresh":
                found = channel.state.fresh(at)
            else:
                found = channel.state.since(at)
            # Also where nothing is left of what was missed: the page has to know the number.
            if found or (channel.entries and channel.entries[-1].offset > at):
                patches.append(Patches(channel.name, channel.seq, found, 0))
        # The string comes after the reset, as that puts its target back too. A snapshot and a string do no harm
        # when they come again, so only the last step makes a promise.
        groups: list[tuple[Item, ...]] = [
            tuple(snapshots),
            *_messages(c for _, c in plans if c is not None),
            tuple(patches),
        ]
        groups = [items for items in groups if items]
        return [Step(items, cap if items is groups[-1] else None) for items in groups]


def _last(channel: Channel) -> int:
    if channel.ended:
        return channel.ended
    return channel.entries[-1].offset if channel.entries else channel.floor


def _messages(channels: Iterable[Channel]) -> list[tuple[Item, ...]]:
    """The last string of each channel."""
    return [(Message(text),) for channel in channels if (text := channel.state.message) is not None]


def _replay(channels: Sequence[Channel], at: int) -> list[Step]:
    """The entries after `at`, of all channels in one order, merged where nothing is lost by it."""
    found: list[tuple[Channel, Entry]] = []
    for channel in channels:
        for entry in reversed(channel.entries):
            if entry.offset <= at:
                break
            found.append((channel, entry))
    found.sort(key=lambda pair: pair[1].offset)
    steps: list[Step] = []
    run: dict[str, tuple[int, int, list[Patch]]] = {}
    last = at

    def flush() -> None:
        if run:
            items = tuple(
                Patches(name, seq, patches if seq == since + 1 else compact(patches), since)
                for name, (since, seq, patches) in run.items()
            )
            steps.append(Step(items, last))
            run.clear()

    for channel, entry in found:
        plain = [p for p in entry.patches if p.action != "message"]
        texts = [p for p in entry.patches if p.action == "message"]
        if texts:
            flush()
            for text in texts:
                # of an entry's blocks only the last completes it
                complete = not plain and text is texts[-1]
                steps.append(Step((Message(str(text.content)),), entry.offset if complete else None))
        if plain or not texts:
            since, _, patches = run.get(channel.name, (entry.seq - 1, 0, []))
            patches += plain
            run[channel.name] = (since, entry.seq, patches)
        last = entry.offset
    flush()
    return steps


def wrong_name(name: object) -> str:
    """What is wrong with a channel's name; "" if nothing is."""
    if type(name) is not str or not 0 < len(name) <= _LONGEST_NAME or name == PRIVATE:
        return (
            f"a channel's name is a str of 1 to {_LONGEST_NAME} characters and not {PRIVATE!r}: {short(name)}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"a channel's name is Unicode text, without lone surrogates: {short(name)}"
    return ""
