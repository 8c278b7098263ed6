"""An open page: does what docs/wire.md ("A client in short") says, whatever the wire, and checks all that it is told.

Each channel has a region of the page of its own: the element whose id is the channel's name. What a page was served
with comes back there, and what is published changes nothing else, so each region can be held against what its publisher
knows (`tests.faults.record`):

- a line of one entry, that follows the one before: the **chain** over all that was applied must be the publisher's
  after that entry. An entry that is lost, doubled, changed or out of order makes another chain, for ever;
- any other line (merged, of the state, a snapshot) skips entries: there the **document** must be the publisher's after
  the entry that the line says it goes up to, and the chain is the publisher's from there on;
- an **id** promises everything up to its position: there the documents of all channels must be the publisher's at that
  position, the numbers too, and of plain strings none may be missing.

What is wrong raises `Wrong`. A gap that the page itself notices is none of that: it comes back; `gaps` counts them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from afterload.patch import Patch
from tests.document import Document, Element, parse
from tests.faults.record import Known, Life, linked

# go on; come back; fetch the HTML; all is over
Verdict = Literal["on", "back", "refresh", "over"]


class Wrong(AssertionError):  # noqa: N818 - it is what was found, and no failure of the model
    """A page shows, or was promised, what is not so."""


@dataclass(frozen=True)
class Block:
    """One block, of whatever wire.

    Attributes:
        event: its type; "message" for a plain string.
        id: the position behind it, or None.
        lines: its data, as JSON values; of a message its text.
    """

    event: str
    id: str | None
    lines: tuple[Any, ...]


@dataclass
class Page:
    """An open page.

    Attributes:
        channels: what it follows, by name.
        served: what its HTML has of each.
        position: how far it has got; "" for none.
        ahead: up to which entry of a channel its HTML may show more than its position says, as views read what they
            show behind it.
        painted: channels whose state its HTML has, so that they cannot be put back.
        life: of the log that its present connection is served from.
    """

    channels: Sequence[str]
    served: Mapping[str, str]
    position: str
    life: Life
    ahead: dict[str, int] = field(default_factory=dict)
    painted: Collection[str] = ()
    last: dict[str, int] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    text: str = ""
    retry: int = 0
    gaps: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    document: Document = field(init=False)

    def __post_init__(self) -> None:
        self.document = Document("".join(self.served.values()))
        self._chains: dict[str, set[tuple[int, bytes]]] = {}  # what they may be, and of which generation
        self._texts: list[str] = []
        self._since: int | None = (
            None  # offset of the last promise, while everything after it has come by itself
        )
        self._greeted = False

    def clone(self) -> Page:
        """Another one that shows the same."""
        other = copy.copy(self)
        for name in ("ahead", "last", "ended", "taken", "_chains", "_texts"):
            setattr(other, name, getattr(self, name).copy())
        other.document = self.document.clone()
        return other

    def connect(self, life: Life) -> None:
        """A connection begins, to a log of this life; it is to ask with its position."""
        if life is not self.life:
            self._since = None
            self._chains.clear()
        self.life = life
        self._texts = []
        self._greeted = False

    def take_all(self, blocks: Iterable[Block]) -> Verdict:
        """Takes blocks until one of them says something else than to go on."""
        for block in blocks:
            if (verdict := self.take(block)) != "on":
                return verdict
        return "on"

    def take(self, block: Block) -> Verdict:
        """Takes one block."""
        if not self._greeted and block.event != "hello":
            raise Wrong(f"{block.event} came before hello")
        self.taken[block.event] += 1
        verdict: Verdict = "on"
        match block.event:
            case "hello":
                self._hello(block)
                return "on"
            case "message":
                [self.text] = block.lines
                self._texts.append(self.text)
            case "patch":
                if any(self._is_gap(line) for line in block.lines):
                    self.gaps += 1
                    return "back"
                for line in block.lines:
                    self._patch(*line)
            case "snapshot":
                if any(line[0] in self.painted for line in block.lines):
                    return "refresh"
                for channel, seq, patches in block.lines:
                    self._restore(channel)
                    self._skip(channel, seq, patches)
            case "reset":
                channel = block.lines[0]["channel"]
                if channel in self.painted:
                    return "refresh"
                self._restore(channel)
                self.last.pop(channel, None)
                self._chains.pop(channel, None)
                self.ahead.pop(channel, None)
                self.text, self._since = "", None
            case "refresh":
                return "refresh"
            case "end":
                said = block.lines[0]
                self.ended[said["channel"]] = said["status"]
                if set(self.ended) >= set(self.channels):
                    verdict = "over"
            case "bye":
                self.retry = block.lines[0]["retry"]
                verdict = "back"
            case "ping":
                pass
            case other:
                raise Wrong(f"a block of type {other!r}")
        if block.id is not None and block.id != self.position:
            self.position = block.id
            self._promised(block)
        return verdict

    def shown(self, channel: str) -> str:
        """What it shows of a channel, serialized as its publisher does."""
        body = Element("body")
        body.children = [self._region(channel)]
        return body.serialize()

    def number(self, seq: int, patches: Sequence[Any]) -> int | None:
        """By which number the publisher knows the entry that a line goes up to; None if that cannot be told."""
        return seq

    def check_everything(self) -> None:
        """That it shows everything that there is now."""
        for channel in self.channels:
            known = self.life.now(channel)
            self._same(channel, known.document, "in the end")
            self._has(channel, known, "is the last")
            if known.status != "open" and self.ended.get(channel) != known.status:
                raise Wrong(f"{channel} is {known.status}, and it was told {self.ended.get(channel)!r}")
        self._heard(self.life.head)
        if len(self.channels) == 1 and not self.life.forgotten.intersection(self.channels):
            said = self.life.now(self.channels[0]).said
            if self.text != said:
                raise Wrong(f"its text is {self.text!r}, not {said!r}")

    # Blocks

    def _hello(self, block: Block) -> None:
        if self._greeted:
            raise Wrong("a second hello")
        self._greeted = True
        self.ended = {}  # what is over is told again
        said = block.lines[0]
        if tuple(said["channels"]) != tuple(self.channels):
            raise Wrong(f"hello names {said['channels']}, not {list(self.channels)}")
        # for a loop that begins now it is that loop's first
        first = f"{self.life.epoch}.0"
        if block.id is None:  # a document has no positions
            return
        if block.id not in (self.position or "0", first):
            raise Wrong(f"hello repeats {block.id!r}, not {self.position or '0'!r}")
        if block.id == first and self.position != first:
            self.position, self._since = first, 0

    def _is_gap(self, line: Sequence[Any]) -> bool:
        channel, seq, _, *rest = line
        since = rest[0] if rest else seq - 1
        return bool(since) and channel in self.last and since > self.last[channel]

    def _patch(self, channel: str, seq: int, patches: list[Any], since: int | None = None) -> None:
        # A line up to number 1 may be a state without saying so: one of which nothing is left is.
        is_state = since == 0 or (seq == 1 and not patches)
        # And where numbers have begun anew there may be something before it.
        if is_state or (seq == 1 and self.life.after(channel, 1, generation=1)):
            self._since = None  # of strings only the last came
        since = seq - 1 if since is None else since
        last = self.last.get(channel)
        anew = self.life.after(channel, seq, self._generation(channel) + 1)
        if not is_state and last is not None and since < last and not anew:
            raise Wrong(f"{channel}: entries {since + 1} to {seq} after {last}: doubled")
        if channel not in self._chains or since != last or seq != since + 1 or seq == 1:
            self._skip(channel, seq, patches)
            return
        self._apply(patches)
        self.last[channel] = seq
        number = self.number(seq, patches)
        chains = {(at, linked(chain, patches)) for at, chain in self._chains[channel]}
        known = [] if number is None else self.life.after(channel, number)
        self._chains[channel] = chains & {(one.generation, one.chain) for one in known}
        if not self._chains[channel]:
            raise Wrong(
                f"{channel}: entry {seq} is not the one that was published, or not all before it came"
            )

    def _generation(self, channel: str) -> int:
        """The earliest that its numbers of a channel may be of."""
        return min((at for at, _ in self._chains.get(channel, ())), default=0)

    def _skip(self, channel: str, seq: int, patches: list[Any]) -> None:
        """Applies a line that may stand for several entries."""
        self._apply(patches)
        self.last[channel] = seq
        number = self.number(seq, patches)
        if number is None:
            self._chains.pop(channel, None)
            return
        possible = self.life.after(channel, number, self._generation(channel))
        if not possible:
            raise Wrong(f"{channel}: no entry {number} was published")
        if number >= self.ahead.get(channel, 0):
            shown = self.shown(channel)
            alike = [known for known in possible if known.document == shown]
            if not alike:
                self._same(channel, possible[-1].document, f"after entry {number}")
            # of several that look alike it cannot be said yet which it is
            self._chains[channel] = {(known.generation, known.chain) for known in alike}

    def _promised(self, block: Block) -> None:
        """It has everything up to its position, it was told."""
        epoch, _, offset = self.position.rpartition(".")
        if self.life.epoch and (epoch != self.life.epoch or int(offset) > self.life.head):
            raise Wrong(f"{block.event} promises {self.position}, at {self.life.epoch}.{self.life.head}")
        at = int(offset)
        for channel in self.channels:
            known = self.life.at(channel, at)
            if known is None:
                continue
            self._has(channel, known, f"is promised by {self.position}")
            if known.seq >= self.ahead.get(channel, 0):
                self._same(channel, known.document, f"at {self.position}")
        self._heard(at)
        self._since, self._texts = at, []

    def _has(self, channel: str, known: Known, why: str) -> None:
        """That the last entry it has is the one that it should have."""
        last = self.last.get(channel, known.seq)
        # Numbers that began anew are not known to a page before the first of them comes.
        if last != known.seq and (known.seq or known.generation <= self._generation(channel)):
            raise Wrong(f"{channel}: entry {known.seq} {why}, it has {last}")

    def _heard(self, at: int) -> None:
        """All strings up to an offset have come."""
        if self._since is None:
            return
        due = self.life.said_between(self.channels, self._since, at)
        if self._texts != due:
            raise Wrong(f"strings up to {self.life.epoch}.{at}: {self._texts} came, not {due}")

    # The document

    def _region(self, channel: str) -> Element:
        for node in self.document.body.children:
            if isinstance(node, Element) and node.id == channel:
                return node
        raise Wrong(f"the region of {channel} is gone")

    def _restore(self, channel: str) -> None:
        """Puts back what the page was served with."""
        self._since = None
        [fresh] = parse(self.served[channel])
        children = self.document.body.children
        children[children.index(self._region(channel))] = fresh

    def _apply(self, patches: list[Any]) -> None:
        for patch in patches:
            self.document.apply(Patch(*patch))

    def _same(self, channel: str, expected: str, where: str) -> None:
        if (shown := self.shown(channel)) != expected:
            raise Wrong(f"{channel} {where}: it shows\n  {shown}\nand not\n  {expected}")
