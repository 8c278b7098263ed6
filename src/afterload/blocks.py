"""What a block says, whatever the wire: an event, and its lines of JSON (docs/wire.md).

A wire is a way to write blocks down; see `afterload.wire`. What they say is the same on all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import WireError
from .log import End, Item, Message, Patches, Piece, Refresh, Reset, Snapshot, Step
from .patch import Patch

VERSION = 1
# Chromium and WebKit answer "retry: 0" with hundreds of requests a second.
RETRY_LEAST = 500
Line = tuple[str, int, Sequence[Patch], int | None]  # channel, seq, patches, since

_NEWLINE = re.compile("\r\n?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> str:
    r"""Compact JSON on one line, without ``<``, U+2028 and U+2029, so that it is safe inside a page too.

    Raises:
        WireError: it is no JSON value.

    Example:
        >>> dumps({"a": "<b>"})
        '{"a":"\\u003cb>"}'
    """
    try:
        text = _json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"no JSON value: {error}", field="data", value=value) from error
    if "<" in text:
        text = text.replace("<", "\\u003c")
    if not text.isascii():
        text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text


def utf8(text: str) -> bytes:
    r"""The bytes of a text; a lone surrogate is U+FFFD, as a browser's own encoder has it.

    A block that cannot be sent would stop all that is behind it.

    Example:
        >>> utf8("\ud800").decode()
        '\ufffd'
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


@dataclass(frozen=True, slots=True)
class Hello:
    """The first block.

    Attributes:
        channels: names of what the page follows.
        heartbeat: seconds between two `ping` at most; 0 where there is none.
        position: the one that the viewer had already, "0" if none.
        resumed: what follows continues what the viewer has.
        into: target of plain strings, if the page said one.
        retry: milliseconds until a browser reconnects; at least `RETRY_LEAST` are sent.
    """

    channels: Sequence[str]
    heartbeat: float
    position: str = "0"
    resumed: bool = False
    into: str | None = None
    retry: int = 3000

    def line(self) -> str:
        """What it says, on any wire."""
        says: dict[str, Any] = {
            "v": VERSION, "resumed": self.resumed, "heartbeat": self.heartbeat, "channels": list(self.channels)
        }  # fmt: skip
        if self.into is not None:
            says["into"] = self.into
        return dumps(says)


def bye(retry: int) -> dict[str, Any]:
    """What the last block of a server that goes away says: come back after so many milliseconds."""
    return {"retry": max(RETRY_LEAST, retry)}


def line(line: Line) -> str:
    """What a patch or a snapshot says of one channel."""
    channel, seq, patches, since = line
    what: list[Any] = [channel, seq, [patch.wire() for patch in patches]]
    if since is not None:
        what.append(since)
    return dumps(what)


def of_step(step: Step) -> Iterator[tuple[str, list[str]]]:
    """The blocks of a step of a log's answer, each an event and its lines; that of a message is its text, no JSON.

    Neighbours of one kind are one block, as they are applied together.
    """
    groups: list[list[Item]] = []
    for item in step.items:
        if groups and type(item) is type(groups[-1][0]) and isinstance(item, Patches | Snapshot):
            groups[-1].append(item)
        else:
            groups.append([item])
    for items in groups:
        yield _of_items(items)


def _of_items(items: list[Item]) -> tuple[str, list[str]]:
    match items[0]:
        case Patches():
            return "patch", [
                line((p.channel, p.seq, p.patches, None if p.since == p.seq - 1 else p.since))
                for p in items
                if isinstance(p, Patches)
            ]
        case Snapshot():
            return "snapshot", [
                line((s.channel, s.seq, s.patches, None)) for s in items if isinstance(s, Snapshot)
            ]
        case Message(text):
            # whatever the wire: an event stream has no other ends of lines
            return "message", [_NEWLINE.sub("\n", text) if "\r" in text else text]
        case Piece(data):
            return "message", [data.decode()]
        case Reset(channel):
            return "reset", [dumps({"channel": channel})]
        case Refresh():
            return "refresh", ["{}"]
        case End(channel, status, text):
            return "end", [dumps({"channel": channel, "status": status, "message": text})]
