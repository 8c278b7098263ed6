"""The client's side of every wire: the bytes of an answer to blocks, however they are split and wherever they end."""

from __future__ import annotations

import codecs
import json
from html.parser import HTMLParser
from typing import Protocol

from websockets.frames import Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as Websocket

from afterload.hub.viewer import Wire
from afterload.wire import poll, sse, websocket
from afterload.wire.sse import Decoder, Event
from tests.faults.page import Block


class Body(Protocol):
    """What is behind the head of an answer."""

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that these bytes complete."""

    def end(self) -> list[Block]:
        """Those that the end completes."""


class Stream:
    """The event stream: a block is whole with its blank line."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._id = ""

    def feed(self, data: bytes) -> list[Block]:
        return [self._block(event) for event in self._decoder.feed(data)]

    def end(self) -> list[Block]:
        return []

    def _block(self, event: Event) -> Block:
        # An event has the last id that there was, as in a browser: only one that is new is the block's own.
        own = event.event == "hello" or event.id != self._id
        self._id = event.id
        lines = (event.data,) if event.event == "message" else map(json.loads, event.data.split("\n"))
        return Block(event.event, event.id if own else None, tuple(lines))


class Messages:
    """The WebSocket: each message is whole blocks of the event stream.

    Attributes:
        closed: the code with which the server has closed, or None.
        pongs: what it has answered to pings.
    """

    def __init__(self) -> None:
        self._frames = Websocket(Side.CLIENT, state=OPEN, max_size=None)
        self._stream = Stream()
        self.closed: int | None = None
        self.pongs: list[bytes] = []

    def feed(self, data: bytes) -> list[Block]:
        if data:
            self._frames.receive_data(data)
        blocks: list[Block] = []
        for frame in self._frames.events_received():
            assert self.closed is None, "a frame came behind the closing one"
            if frame.opcode is Opcode.TEXT:
                assert frame.fin
                assert frame.data.endswith(b"\n\n"), "a message is whole blocks"
                blocks += self._stream.feed(bytes(frame.data))
            elif frame.opcode is Opcode.CLOSE:
                self.closed = int.from_bytes(frame.data[:2])
            else:
                assert frame.opcode is Opcode.PONG
                self.pongs.append(bytes(frame.data))
        return blocks

    def end(self) -> list[Block]:
        return []


class Text:
    """A poll: one JSON text, whole at its end or nothing."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[Block]:
        self._data += data
        return []

    def end(self) -> list[Block]:
        try:
            said = json.loads(self._data)
        except ValueError:
            return []
        assert said[0][0] == "hello"
        return [Block(event, position, tuple(lines)) for event, position, *lines in said]


WIRES: dict[str, tuple[Wire, bytes, type[Stream | Messages | Text]]] = {
    "stream": (sse, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", Stream),
    "websocket": (websocket, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", Messages),
    "poll": (poll, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", Text),
}


class Reader:
    """Reads one answer on a wire.

    Attributes:
        status: of the answer; 0 while its head is not whole.
    """

    def __init__(self, wire: str) -> None:
        _, _, body = WIRES[wire]
        self.status = 0
        self._head = b""
        self._body: Body = body()

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that these bytes complete."""
        if not self.status:
            head, blank, data = (self._head + data).partition(b"\r\n\r\n")
            if not blank:
                self._head = head
                return []
            self.status = int(head.split()[1])
        return self._body.feed(data)

    def end(self) -> list[Block]:
        """Those that the end completes."""
        return self._body.end() if self.status == 200 else []


class Elements(HTMLParser):
    """A document: a block is an element, and is there when its start tag is whole.

    Attributes:
        status: "interrupted", also while it is still coming, until its last block has said that it is "complete".
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.status = "interrupted"
        self._blocks: list[Block] = []
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def blocks(self, data: bytes) -> list[Block]:
        """The blocks that these bytes complete, `complete` left out."""
        self._blocks = []
        self.feed(self._utf8.decode(data))
        return self._blocks

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs).get("p")
        if tag == "af-p" and said is not None:
            assert self.status == "interrupted", "a block came behind the last one"
            event, *lines = json.loads(said)
            if event == "complete":
                self.status = "complete"
            else:
                self._blocks.append(Block(event, None, tuple(lines)))
