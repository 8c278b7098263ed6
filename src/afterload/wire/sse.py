"""The event stream: the codec, and the blocks of ours on it (docs/wire.md).

Encoding and decoding follow https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import WireError
from ..log import End, Message, Patches, Refresh, Reset, Snapshot, Step
from ..patch import Patch

VERSION = 1
_NEWLINE = re.compile("\r\n|\r|\n")  # never str.splitlines(): U+2028, form feed and others are data
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_ESCAPES = str.maketrans({"<": "\\u003c", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def dumps(value: Any) -> str:
    r"""Compact JSON on one line, without ``<``, U+2028 and U+2029, so that it is safe inside a page too.

    Example:
        >>> dumps({"a": "<b>"})
        '{"a":"\\u003cb>"}'
    """
    return _json(value).translate(_ESCAPES)


def encode(
    data: str | None, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    r"""One block.

    Args:
        data: any text; None for a block without data (which a browser does not dispatch).
        event: the event's type.
        id: the position after it.
        retry: milliseconds until a browser reconnects.

    Raises:
        WireError: `event` or `id` has a CR, LF or NUL, which would end the field or make it void.

    Example:
        >>> encode("a\nb", id="e.1")
        b'id: e.1\ndata: a\ndata: b\n\n'
    """
    lines = []
    for name, value in (("event", event), ("id", id)):
        if value is not None:
            if "\n" in value or "\r" in value or "\0" in value:
                raise WireError(f"{name} cannot have a CR, LF or NUL: {value!r}")
            lines.append(f"{name}: {value}\n")
    if retry is not None:
        lines.append(f"retry: {retry}\n")
    if data is not None:
        parts = _NEWLINE.split(data) if "\n" in data or "\r" in data else (data,)
        lines += [f"data: {part}\n" for part in parts]
    lines.append("\n")
    return "".join(lines).encode()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a browser would dispatch it.

    Attributes:
        event: its type; "message" if the stream named none.
        data: its text.
        id: the last id seen, "" if none.
        retry: milliseconds that this block asked for, or None.
    """

    event: str
    data: str
    id: str = ""
    retry: int | None = None


class Decoder:
    """Bytes of an event stream to events: the same however the bytes are split."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = ""
        self._begun = False
        self._after_cr = False
        self._data: list[str] = []
        self._event = ""
        self._id = ""
        self._retry: int | None = None

    @property
    def id(self) -> str:
        """The last id of a dispatched or empty block."""
        return self._id

    def feed(self, data: bytes) -> list[Event]:
        """Takes bytes, returns the events that they complete."""
        text = self._text.decode(data)
        if not text:
            return []
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
            self._after_cr = False
            if not text:
                return []
        self._after_cr = text.endswith("\r")
        *lines, self._buffer = _NEWLINE.split(self._buffer + text)
        return [event for line in lines for event in self._line(line)]

    def _line(self, line: str) -> Iterator[Event]:
        if not line:
            if self._data:
                yield Event(self._event or "message", "\n".join(self._data), self._id, self._retry)
            self._data, self._event, self._retry = [], "", None
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry = int(value)


def hello(
    *,
    position: str,
    resumed: bool,
    heartbeat: float,
    channels: Sequence[str],
    into: str | None = None,
    retry: int = 3000,
) -> bytes:
    """The first block: `position` is the one the viewer had already, "0" if none."""
    data: dict[str, Any] = {"v": VERSION, "resumed": resumed, "heartbeat": heartbeat, "channels": list(channels)}
    if into is not None:
        data["into"] = into
    return encode(dumps(data), event="hello", id=position, retry=retry)


def message(text: str, id: str | None = None) -> bytes:
    """A plain string."""
    return encode(text, id=id)


def _lines(lines: Sequence[tuple[str, int, Sequence[Patch], int | None]]) -> str:
    return "\n".join(
        dumps([channel, seq, [p.wire() for p in patches]] + ([since] if since is not None else []))
        for channel, seq, patches, since in lines
    )


def patch(lines: Sequence[tuple[str, int, Sequence[Patch], int | None]], id: str | None = None) -> bytes:
    """Patches, a line ``(channel, seq, patches, since)`` for each channel, applied together."""
    return encode(_lines(lines), event="patch", id=id)


def snapshot(lines: Sequence[tuple[str, int, Sequence[Patch]]], id: str | None = None) -> bytes:
    """The state of channels, a line ``(channel, seq, patches)`` for each."""
    return encode(_lines([(*line, None) for line in lines]), event="snapshot", id=id)


def reset(channel: str, id: str | None = None) -> bytes:
    """What the channel brought to the page is void."""
    return encode(dumps({"channel": channel}), event="reset", id=id)


def refresh(id: str | None = None) -> bytes:
    """The page has to fetch itself."""
    return encode("{}", event="refresh", id=id)


def ping(id: str) -> bytes:
    """A heartbeat. An event, as a page cannot see comments."""
    return encode("{}", event="ping", id=id)


def end(channel: str, status: str, message: str = "", id: str | None = None) -> bytes:
    """A channel is over."""
    return encode(dumps({"channel": channel, "status": status, "message": message}), event="end", id=id)


def bye(retry: int) -> bytes:
    """The server goes away, or has no room; come back after `retry` milliseconds."""
    return encode(dumps({"retry": retry}), event="bye", retry=retry)


def step(step: Step, epoch: str) -> bytes:
    """A step of a log's answer; the last block carries its position.

    Patches of several channels are one block, as they are applied together.
    """
    blocks: list[Any] = []
    for item in step.items:
        if isinstance(item, Patches | Snapshot) and blocks and isinstance(blocks[-1], list):
            if type(blocks[-1][0]) is type(item):
                blocks[-1].append(item)
                continue
        blocks.append([item] if isinstance(item, Patches | Snapshot) else item)
    position = None if step.offset is None else f"{epoch}.{step.offset}"
    last = len(blocks) - 1
    return b"".join(_block(block, position if i == last else None) for i, block in enumerate(blocks))


def _block(item: Any, id: str | None) -> bytes:
    if isinstance(item, list):
        if isinstance(item[0], Snapshot):
            return snapshot([(s.channel, s.seq, s.patches) for s in item], id)
        return patch(
            [(p.channel, p.seq, p.patches, None if p.since == p.seq - 1 else p.since) for p in item], id
        )
    match item:
        case Message(text):
            return message(text, id)
        case Reset(channel):
            return reset(channel, id)
        case Refresh():
            return refresh(id)
        case End(channel, status, text):
            return end(channel, status, text, id)
    raise AssertionError(item)
