r"""The long poll: what is new as one JSON text, and the request is over (docs/wire.md#the-poll).

The text is an array of blocks, ``[type, id, *lines]``, of which `hello` is the first. It is put together of pieces, as
the other wires are: what `hello` says is a viewer's own, all behind it is the same for all who get it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .. import blocks
from ..blocks import RETRY_LEAST, Hello, dumps, utf8
from ..log import Step

NAME = "poll"
HEARTBEAT = math.inf
LASTS = False
ONCE = True
ENDING = b"]"
_NOT_OF_NOTHING = re.compile(rb"\r\ncontent-type:[^\r]*", re.IGNORECASE)


def hello(hello: Hello) -> bytes:
    """What the text begins with."""
    says: dict[str, Any] = json.loads(hello.line())
    says["retry"] = max(RETRY_LEAST, hello.retry)
    return b"[" + _block("hello", hello.position, [dumps(says)])


def step(step: Step, epoch: str) -> bytes:
    r"""A step of a log's answer; the last of its blocks carries its position.

    Example:
        >>> from afterload import text
        >>> from afterload.log import Patches
        >>> step(Step((Patches("clock", 7, [text("#now", "12:00")], 6),), 40), "e1")
        b',["patch","e1.40",["clock",7,[["text","#now","12:00"]]]]'
    """
    found = list(blocks.of_step(step))
    position = None if step.offset is None else f"{epoch}.{step.offset}"
    last = len(found) - 1
    return b"".join(
        b","
        + _block(event, position if i == last else None, [dumps(lines[0])] if event == "message" else lines)
        for i, (event, lines) in enumerate(found)
    )


def ping(id: str) -> bytes:
    """That there is nothing new up to the head."""
    return b"," + _block("ping", id, ["{}"])


def bye(retry: int) -> bytes:
    """Ask again, but not before so many milliseconds; the end of the text."""
    return b"," + _block("bye", None, [dumps(blocks.bye(retry))]) + ENDING


def nothing(head: bytes) -> bytes:
    r"""The head of the answer that there is nothing new, made of that of an answer with news.

    Example:
        >>> nothing(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX: 1\r\n\r\n")
        b'HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n'
    """
    _, _, headers = head.partition(b"\r\n")
    return b"HTTP/1.1 204 No Content" + _NOT_OF_NOTHING.sub(b"", b"\r\n" + headers)


def _block(event: str, id: str | None, lines: list[str]) -> bytes:
    return utf8(f"[{dumps(event)},{dumps(id)},{','.join(lines)}]")
