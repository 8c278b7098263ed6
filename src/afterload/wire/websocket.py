r"""The WebSocket: the blocks of the event stream as messages (docs/wire.md#the-websocket).

A text message is one or more whole blocks, in the very writing of `afterload.wire.sse`, so a client gives them to the
same decoder. What a server sends is not masked (https://www.rfc-editor.org/rfc/rfc6455#section-5.1), so a message is
encoded once for all who get it.

What a client sends, and the handshake, is the business of ``websockets``, without its input and output; it is
imported when the first client asks for it, and its object for a connection is made when the first byte comes: browsers
send none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..blocks import Hello
from ..log import Step
from . import sse

if TYPE_CHECKING:
    from websockets.typing import Subprotocol

NAME = "websocket"
HEARTBEAT = math.inf
LASTS = True
ONCE = False
PROTOCOL = "afterload.v1"
_MOST = 4096  # bytes of a client's message; none of them says anything to us
_TEXT, _CLOSE = 0x81, 0x88


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((opcode, size)) + payload
    if size < 65_536:
        return bytes((opcode, 126)) + size.to_bytes(2) + payload
    return bytes((opcode, 127)) + size.to_bytes(8) + payload


def _message(blocks: bytes) -> bytes:
    return _frame(_TEXT, blocks) if blocks else b""


ENDING = _frame(_CLOSE, (1000).to_bytes(2))  # all is said
_GOING_AWAY = _frame(_CLOSE, (1001).to_bytes(2))


def hello(hello: Hello) -> bytes:
    """The first message."""
    return _message(sse.hello(hello))


def step(step: Step, epoch: str) -> bytes:
    r"""A step of a log's answer.

    Example:
        >>> from afterload.log import Message
        >>> step(Step((Message("12:00"),), 7), "e1")
        b'\x81\x16id: e1.7\ndata: 12:00\n\n'
    """
    return _message(sse.step(step, epoch))


def ping(id: str) -> bytes:
    """A heartbeat: a message, as a page does not see the pings of the protocol."""
    return _message(sse.ping(id))


def bye(retry: int) -> bytes:
    """The server goes away, or has no room."""
    return _message(sse.bye(retry)) + _GOING_AWAY


class Refused(Exception):  # noqa: N818 - an answer, and no mistake of a program's
    """There will be no WebSocket.

    Attributes:
        status: of the answer.
        headers: that belong to it.
        why: its text.
        is_missing: ``websockets`` is not installed.
    """

    def __init__(
        self, status: str, headers: Sequence[tuple[str, str]], why: str, *, is_missing: bool = False
    ) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers
        self.why = why
        self.is_missing = is_missing


def handshake(path: str, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the answer, with status 101, to a request to open a WebSocket.

    Args:
        path: of the request; in messages only.
        headers: of the request.

    Raises:
        Refused: the request is none, or ``websockets`` is not installed.
    """
    try:
        from websockets.datastructures import Headers
        from websockets.exceptions import InvalidHeader
        from websockets.http11 import Request
        from websockets.server import ServerProtocol
    except ImportError:
        raise Refused("501 Not Implemented", [], "There is no WebSocket here.", is_missing=True) from None

    def select(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((name for name in offered if name == PROTOCOL), None)

    server = ServerProtocol(select_subprotocol=select)
    try:
        answer = server.accept(Request(path, Headers(headers)))
    except InvalidHeader as error:  # bytes that not every server refuses before
        raise Refused("400 Bad Request", [], str(error)) from error
    ours = [
        (name, value) for name, value in answer.headers.raw_items() if name.lower() not in ("date", "server")
    ]
    if answer.status_code != 101:
        kept = [(name, value) for name, value in ours if name.lower().startswith("sec-websocket")]
        raise Refused(
            f"{answer.status_code} {answer.reason_phrase}", kept, (answer.body or b"").decode().strip()
        )
    return ours


class Inbound:
    """What a client says, and the answer to it; made when it says something for the first time.

    Attributes:
        reply: what is to be sent between two messages as soon as that is possible: a pong, or the closing. Of several
            pings only the last read are answered (https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3).
        closing: nothing may be sent behind the reply.
    """

    __slots__ = ("_protocol", "closing", "reply")

    def __init__(self) -> None:
        from websockets.protocol import OPEN
        from websockets.server import ServerProtocol

        self._protocol = ServerProtocol(state=OPEN, max_size=_MOST)
        self.reply = b""
        self.closing = False

    def feed(self, data: bytes) -> None:
        """Takes bytes of the client's; messages are read and forgotten."""
        if self.closing:
            return
        self._protocol.receive_data(data)
        self._protocol.events_received()
        said = b"".join(self._protocol.data_to_send())
        self.reply = said or self.reply
        self.closing = self._protocol.close_expected()
