"""The event stream: the codec, and the blocks of ours on it (docs/wire.md).

Encoding and decoding follow
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

A block is encoded once for all who get it, so what differs between viewers (the position of `hello`) has a
block of its own. Nothing that a program or a client sent can end a field early: data is split where a browser
would split it, JSON has no line ends, and `event` and `id` with one are refused.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import blocks
from ..blocks import RETRY_LEAST, Hello, Line, dumps, utf8
from ..errors import WireError
from ..log import Step

NAME = "sse"
HEARTBEAT = math.inf
LASTS = True
ONCE = False
ENDING = b""
_NEWLINE = re.compile("\r\n|\r|\n")  # never str.splitlines(): U+2028, form feed and others are data
_RETRY = re.compile("[0-9]{1,15}", re.ASCII)


def encode(
    data: str | None, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    r"""One block.

    Args:
        data: any text; each CRLF, CR or LF in it arrives as LF, a lone surrogate as U+FFFD. None for a block
            without data, which a browser does not dispatch.
        event: the event's type.
        id: the position after it.
        retry: milliseconds until a browser reconnects.

    Raises:
        WireError: `event` or `id` has a CR, LF or NUL, which would end the field or make it void; or `retry`
            is negative.

    Example:
        >>> encode("a\nb", id="e.1")
        b'id: e.1\ndata: a\ndata: b\n\n'
    """
    if data is not None and ("\n" in data or "\r" in data):
        data = "\ndata: ".join(_NEWLINE.split(data))
    return _block(data, event, id, retry)


def _block(data: str | None, event: str | None, id: str | None, retry: int | None = None) -> bytes:
    """`encode` for data whose lines are joined already."""
    text = ""
    if event is not None:
        text = f"event: {_field('event', event)}\n"
    if id is not None:
        text += f"id: {_field('id', id)}\n"
    if retry is not None:
        if retry < 0:
            raise WireError(f"retry is milliseconds from 0, not {retry!r}", field="retry", value=retry)
        text += f"retry: {retry:d}\n"
    text += "\n" if data is None else f"data: {data}\n\n"
    return utf8(text)


def _field(name: str, value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise WireError(f"{name} cannot have a CR, LF or NUL: {value!r}", field=name, value=value)
    return value


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
    r"""Bytes of an event stream to events: the same however the bytes are split.

    What is no UTF-8 becomes U+FFFD. An event whose blank line has not come is never given out, nor its id:
    what a cut stream has left behind is asked for again.

    Attributes:
        id: the last id of a complete block: what a client sends to resume.
        retry: the milliseconds last asked for in any complete block, or None.

    Example:
        >>> decoder = Decoder()
        >>> decoder.feed(b"id: e.1\nda") + decoder.feed(b"ta: hello\n\n")
        [Event(event='message', data='hello', id='e.1', retry=None)]
    """

    def __init__(self) -> None:
        self.id = ""
        self.retry: int | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._after_cr = False
        self._rest: list[str] = []  # of a line that is not complete; joined once, when it is
        self._data: list[str] = []
        self._event = ""
        self._next_id = ""
        self._block_retry: int | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Takes bytes, returns the events that they complete."""
        text = self._utf8.decode(data)
        if not text:
            return []
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_cr and text.startswith("\n"):
            text = text[1:]  # the other half of a CRLF
            self._after_cr = False
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        first, *lines = _NEWLINE.split(text)
        self._rest.append(first)
        if not lines:
            return []
        lines.insert(0, "".join(self._rest))
        self._rest = [lines.pop()]
        return [event for line in lines for event in self._line(line)]

    def _line(self, line: str) -> Iterator[Event]:
        if not line:
            yield from self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            if "\0" not in value:
                self._next_id = value
        elif name == "retry" and _RETRY.fullmatch(value):
            self._block_retry = int(value)

    def _dispatch(self) -> Iterator[Event]:
        self.id = self._next_id
        if self._block_retry is not None:
            self.retry = self._block_retry
        if self._data:
            yield Event(self._event or "message", "\n".join(self._data), self.id, self._block_retry)
        self._data, self._event, self._block_retry = [], "", None


# The blocks, each as docs/wire.md describes it. `id` is a promise: who has the block has everything up to it.


def hello(hello: Hello) -> bytes:
    """The first block."""
    return _block(hello.line(), "hello", hello.position, max(RETRY_LEAST, hello.retry))


def message(text: str, id: str | None = None) -> bytes:
    """A plain string."""
    return encode(text, id=id)


def patch(lines: Sequence[Line], id: str | None = None) -> bytes:
    r"""Patches, a line ``(channel, seq, patches, since)`` for each channel, all applied together.

    `since` is the sequence number before the first entry in the line; None is ``seq - 1``, one entry.

    Example:
        >>> from afterload import text
        >>> patch([("clock", 7, [text("#now", "12:00")], None)], "e1.40")
        b'event: patch\nid: e1.40\ndata: ["clock",7,[["text","#now","12:00"]]]\n\n'
    """
    return _block("\ndata: ".join(map(blocks.line, lines)), "patch", id)


def snapshot(lines: Sequence[Line], id: str | None = None) -> bytes:
    """The state of channels, on the page as it was served; lines as of `patch`."""
    return _block("\ndata: ".join(map(blocks.line, lines)), "snapshot", id)


def reset(channel: str, id: str | None = None) -> bytes:
    """What the channel brought to the page is void."""
    return _block(dumps({"channel": channel}), "reset", id)


def refresh(id: str | None = None) -> bytes:
    """The page has to fetch itself."""
    return _block("{}", "refresh", id)


def ping(id: str) -> bytes:
    """A heartbeat with the position of the head. An event, as a page cannot see comments."""
    return _block("{}", "ping", id)


def end(channel: str, status: str, message: str = "", id: str | None = None) -> bytes:
    """A channel is over: `status` is done, failed, cancelled or lost; `message` is for the page's reader."""
    return _block(dumps({"channel": channel, "status": status, "message": message}), "end", id)


def bye(retry: int) -> bytes:
    """The server goes away, or has no room; come back after `retry` milliseconds, at least `RETRY_LEAST`."""
    says = blocks.bye(retry)
    return _block(dumps(says), "bye", None, says["retry"])


def step(step: Step, epoch: str) -> bytes:
    """A step of a log's answer; its last block carries its position."""
    found = list(blocks.of_step(step))
    position = None if step.offset is None else f"{epoch}.{step.offset}"
    last = len(found) - 1
    return b"".join(
        _of(event, lines, position if i == last else None) for i, (event, lines) in enumerate(found)
    )


def _of(event: str, lines: list[str], id: str | None) -> bytes:
    if event == "message":
        return message(lines[0], id)
    return _block("\ndata: ".join(lines), event, id)
