"""What a publisher knows of its own channels: after each entry the document, and a chain of everything so far.

A *life* is that of one log: a hub's, until it ends, or a private loop's. For each channel it keeps, at each offset
where something happened, what a page must show that has everything up to there.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from afterload.errors import PatchError
from afterload.hub.hub import Hub
from afterload.log import Log
from afterload.patch import Patch, html
from tests.document import Document, Element

START = b"\0" * 32


def canonical(patches: Sequence[Any]) -> bytes:
    """Patches as bytes: those of an entry, or those of a line as it came."""
    return json.dumps(patches, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def linked(chain: bytes, patches: Sequence[Any]) -> bytes:
    """The chain with an entry more."""
    return hashlib.sha256(chain + canonical(patches)).digest()


@dataclass(frozen=True)
class Known:
    """What a channel is at one place.

    Attributes:
        offset: its place in the log.
        seq: the number of its last entry that has patches.
        generation: how often the hub had forgotten it: the numbers begin anew then.
        chain: over all those entries.
        document: what a page shows of it, serialized.
        said: its last plain string, or "".
        status: "open", or how it ended.
    """

    offset: int
    seq: int
    generation: int
    chain: bytes
    document: str
    said: str
    status: str


class Life:
    """One life of a log, as the publisher remembers it.

    Args:
        epoch: of the log.
        documents: what pages show of each channel when it begins, by name.
    """

    def __init__(self, epoch: str, documents: Mapping[str, str]) -> None:
        self.epoch = epoch
        self.head = 0
        self.strings: list[tuple[int, str, str]] = []  # offset, channel, text
        self.forgotten: set[str] = set()  # channels that were so quiet that the hub did not remember them
        self._known: dict[str, list[Known]] = {
            name: [Known(0, 0, 0, START, document, "", "open")] for name, document in documents.items()
        }

    def add(self, name: str, **changed: Any) -> None:
        """Notes what a channel is from `offset` on."""
        known = Known(**{**vars(self._known[name][-1]), **changed})
        self._known[name].append(known)
        self.head = known.offset

    def at(self, name: str, offset: int) -> Known | None:
        """What a channel was at an offset; None where that is not known."""
        known = self._known[name]
        return known[bisect_right(known, offset, key=lambda one: one.offset) - 1]

    def now(self, name: str) -> Known:
        """What it is."""
        return self._known[name][-1]

    def after(self, name: str, seq: int, generation: int = 0) -> list[Known]:
        """What it was after its entry with this number; in each generation from this one on that had it."""
        found: dict[int, Known] = {}
        for known in self._known[name]:
            if known.seq == seq and known.generation >= generation:
                found.setdefault(known.generation, known)
        return list(found.values())

    def said_between(self, names: Sequence[str], after: int, upto: int) -> list[str]:
        """The strings of these channels at the offsets in between."""
        return [text for at, name, text in self.strings if after < at <= upto and name in names]


class Publisher:
    """Publishes to the channels of a hub, and keeps their record.

    Topics are published to by an application, which remembers them when the hub does not; runs are written by loops,
    which begin anew.

    Args:
        blanks: what a page's HTML has of each channel at first, by name.
        runs: which of them are runs.
    """

    def __init__(self, blanks: Mapping[str, str], runs: Sequence[str] = ()) -> None:
        self.blanks = dict(blanks)
        self.runs = tuple(runs)
        self.documents = {name: Document(html) for name, html in blanks.items()}
        self.life = Life("", {})
        self._hub: Hub | None = None
        self._log: Log | None = None

    def attach(self, hub: Hub, log: Log | None = None) -> None:
        """Publishes to this hub from now on, whose channels are unknown so far: another life."""
        self._hub, self._log = hub, log or hub.log
        for name in self.runs:
            self.documents[name] = Document(self.blanks[name])
        shown = {name: document.body.serialize() for name, document in self.documents.items()}
        self.life = Life(self._log.epoch, shown)

    @property
    def log(self) -> Log:
        assert self._log is not None
        return self._log

    @property
    def hub(self) -> Hub:
        assert self._hub is not None
        return self._hub

    def publish(self, name: str, *patches: Patch) -> str:
        """Publishes an entry; its position."""
        offset = self.hub.publish(name, patches, self.log)
        plain = [patch for patch in patches if patch.action != "message"]
        before = self.life.now(name)
        for patch in plain:
            self.documents[name].apply(patch)
        said = [str(patch.content) for patch in patches if patch.action == "message"]
        self.life.strings += [(offset, name, text) for text in said]
        # Where nobody follows it and there are too many, it is forgotten at once; its numbers begin anew then.
        channel = self.log.channels.get(name)
        seq = 0 if channel is None else channel.seq
        anew = channel is None or seq != before.seq + bool(plain)
        assert not anew or seq <= bool(plain)
        self.life.add(
            name,
            offset=offset,
            seq=seq,
            generation=before.generation + anew,
            chain=linked(before.chain, [patch.wire() for patch in plain]) if plain else before.chain,
            document=self.documents[name].body.serialize(),
            said=said[-1] if said else before.said,
            status="open",
        )
        self.life.forgotten |= {name for name in self.blanks if name not in self.log.channels}
        return f"{self.life.epoch}.{offset}"

    def begin(self, name: str) -> None:
        """A loop begins to write a run."""
        self.hub.begin(name, self.log)
        self.documents[name] = Document(self.blanks[name])
        shown = self.documents[name].body.serialize()
        self.life.add(name, offset=self.log.head, document=shown, said="", status="open")

    def finish(self, name: str, status: str, message: str = "") -> None:
        """A channel is over."""
        self.hub.finish(name, status, message, self.log)
        self.life.add(name, offset=self.log.head, status=status)

    def restore(self, name: str) -> None:
        """Gives the hub what a topic shows, as the application does when it is asked."""
        [region] = self.documents[name].body.children
        assert isinstance(region, Element)
        new = name not in self.log.channels
        try:
            self.hub.restore(name, self.log.head, (html(f"#{name}", Markup(inner(region))),))
        except PatchError:
            return  # it is more than a state may hold
        if new:
            generation = self.life.now(name).generation + 1
            self.life.add(name, offset=self.log.head, seq=0, generation=generation)

    def html(self, name: str, *, painted: bool = False) -> str:
        """What a view has of a channel in its HTML: of a topic the present state, of a run nothing, if not painted."""
        if name in self.runs and not painted:
            return self.blanks[name]
        return inner(self.documents[name].body)


def inner(element: Element) -> str:
    """What is in an element, as HTML that makes the same."""
    return "".join(_markup(node) for node in element.children)


def _markup(node: str | Element) -> str:
    if isinstance(node, str):
        return escape(node, quote=False)
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in node.attributes.items())
    return f"<{node.tag}{attributes}>{inner(node)}</{node.tag}>"
