"""What channels held, put together from what their viewers were sent, and what each viewer has of it.

Viewers of the same channels are sent the same bytes, so a block is parsed once for all of them (`Ledger.read`), and
for each viewer there is only to be seen that its lines join on to what it has (`Shown.take`). That is enough for
"everything, and once": a sequence number means the same entry for everybody, which the ledger sees to, and a viewer
that has had every number once has had every entry once.

An entry's mark is what the example writes: of an order what was ordered, which the tests make unique, and of a tick
of its clock the text that names the tick and the process. The clock is a loop, which another process may begin anew:
what its channel holds then is void, and who comes before the first tick begins with that.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from afterload.wire.sse import Event

TICK = re.compile(r"tick (\d+) of process (\d+)")
ROW = re.compile(r'<li id="order-\d+">([^<]*)</li>')
CLOCK, RUNNER = "clock", "#runner"
KEEP = 50  # rows of a list in the example; where more are merged, the oldest are not sent


class Line(NamedTuple):
    """One line of a patch or a snapshot.

    Attributes:
        since, seq: the entries in it are those after `since`, up to `seq`.
        whole: it is all there is to be shown of the channel (a snapshot, or `since` 0).
        marks: of the entries in it.
    """

    channel: str
    since: int
    seq: int
    whole: bool
    marks: tuple[str, ...]


class Entry(NamedTuple):
    """Where a mark was published: by which hub (its epoch), in which channel, as which entry, and its position."""

    epoch: str
    channel: str
    seq: int
    offset: int


class Ledger:
    """The entries of all channels.

    Attributes:
        marks: by epoch, channel and sequence number.
        entries: by mark.
        wrong: what must not be, in words; at most 50.
    """

    def __init__(self) -> None:
        self.marks: dict[tuple[str, str, int], str] = {}
        self.entries: dict[str, Entry] = {}
        self.heads: dict[tuple[str, str], int] = {}
        self.wrong: list[str] = []

    def read(self, epoch: str, offset: int, event: Event) -> tuple[Line, ...]:
        """The lines of a patch or a snapshot, entered.

        Args:
            epoch: of the log it is of.
            offset: up to which it promises everything; 0 if it has no id.
            event: the block.
        """
        lines = []
        for data in event.data.split("\n"):
            channel, seq, patches, *since = json.loads(data)
            whole = event.event == "snapshot" or since == [0]
            line = Line(channel, since[0] if since else seq - 1, seq, whole, marks_of(patches))
            self._enter(epoch, offset, line)
            lines.append(line)
        return tuple(lines)

    def _enter(self, epoch: str, offset: int, line: Line) -> None:
        head = epoch, line.channel
        self.heads[head] = max(self.heads.get(head, 0), line.seq)
        for mark, count in Counter(line.marks).items():
            if count > 1:
                self.say(f"{mark} is {count} times in one block of {line.channel}")
        if line.channel == CLOCK:
            numbered = [(line.seq, line.marks[-1])]  # texts of one place: of what is merged there is the last
        elif line.whole and len(line.marks) != line.seq:
            return  # a state, which names no entries
        else:
            if len(line.marks) != min(line.seq - line.since, KEEP):
                self.say(
                    f"{line.channel} {line.since}-{line.seq} has {len(line.marks)} entries: {line.marks}"
                )
            numbered = list(zip(range(line.seq, line.since, -1), reversed(line.marks), strict=False))
        for seq, mark in numbered:
            key = epoch, line.channel, seq
            if self.marks.setdefault(key, mark) != mark:
                self.say(f"{line.channel} {seq} is {mark} for one viewer and {self.marks[key]} for another")
            found = self.entries.get(mark)
            if line.channel == CLOCK:
                continue  # each run ticks from 1 on
            if found is None:
                self.entries[mark] = Entry(*key, offset)
            elif found[:3] != key:
                self.say(f"{mark} was published twice: as {found[:3]} and as {key}")

    def say(self, what: str) -> None:
        if len(self.wrong) < 50:
            self.wrong.append(what)


def position(text: str) -> tuple[str, int]:
    """Epoch and offset, also of the position that a page was served with."""
    epoch, _, offset = text.rpartition(".")
    return epoch, int(offset.rstrip("~"))


def marks_of(patches: Iterable[list[object]]) -> tuple[str, ...]:
    found: list[str] = []
    for _, target, content, *_ in patches:
        found += [str(content)] if target == RUNNER else ROW.findall(str(content))
    return tuple(found)


@dataclass
class Part:
    """What a viewer has of one channel: a list it was given, and from then on entry after entry.

    Attributes:
        base: marks in the page or the snapshot.
        start: the sequence number that `base` reaches to.
    """

    base: frozenset[str] = frozenset()
    start: int | None = None


@dataclass
class Shown:
    """What one viewer has, by channel.

    Attributes:
        last: the sequence number it has got to.
        gaps, doubled: entries that it was not sent, and that it was sent again.
    """

    last: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    gaps: int = 0
    doubled: int = 0

    def take(self, ledger: Ledger, epoch: str, line: Line, *, snapshot: bool) -> bool:
        """A line that does not simply follow the one before; whether it can be applied."""
        last = self.last.get(line.channel)
        if line.whole or last is None:
            if not line.whole and line.since and line.channel not in (*self.parts, CLOCK):
                ledger.say(f"{line.channel} began with {line.since + 1}, and with nothing before it")
            part = Part() if snapshot else self.parts.get(line.channel, Part())
            if part.start is not None and last is not None:  # so that one set says it all
                again = {ledger.marks.get((epoch, line.channel, n)) for n in range(part.start + 1, last + 1)}
                self.doubled += len(again & {*line.marks})
                part.base |= {mark for mark in again if mark}
            if line.whole:
                part = Part(part.base | {*line.marks}, line.seq)
            elif part.start is None:
                part = Part(part.base, line.since)
            self.parts[line.channel] = part
        elif line.since > last:
            self.gaps += line.since - last
            return False
        elif line.since < last:
            self.doubled += min(last, line.seq) - line.since
        self.last[line.channel] = line.seq
        return True

    def begin(self, page: dict[str, frozenset[str]]) -> None:
        """The page was fetched anew; what it lists, by channel."""
        self.last = {}
        self.parts = {channel: Part(marks) for channel, marks in page.items()}

    def missing(self, ledger: Ledger, epoch: str, channel: str, marks: frozenset[str]) -> int:
        """How many of these it has not been sent, nor found in its page."""
        part = self.parts.get(channel, Part())
        last = self.last.get(channel, 0)
        had = {ledger.marks.get((epoch, channel, n)) for n in range((part.start or 0) + 1, last + 1)}
        return len(marks - part.base - had)


@dataclass
class Run:
    """A run of the shared loop: its process, and when the first viewer had its first and its last tick."""

    pid: int
    began: float
    last: float
    tick: int


def runs_of(ticks: Iterable[tuple[float, str]]) -> list[Run]:
    """The runs of the clock one after the other, from its ticks as they were published.

    Raises:
        AssertionError: one went on after another had begun.
    """
    runs: list[Run] = []
    for at, text in ticks:
        found = TICK.fullmatch(text)
        assert found, text
        tick, pid = int(found[1]), int(found[2])
        if runs and runs[-1].pid == pid and runs[-1].tick < tick:
            runs[-1].last, runs[-1].tick = at, tick
        else:
            assert tick == 1 or pid not in {run.pid for run in runs}, f"two runs at once: {text} after {runs}"
            runs.append(Run(pid, at, at, tick))
    return runs
