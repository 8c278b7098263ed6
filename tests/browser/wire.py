"""A tiny server that speaks the wires by hand, so that a test decides about each byte and each answer.

It knows one page. Every other answer than "here is the page" and "here is a stream that goes on" is put into
`answers` before the request comes. Without a word it has no WebSocket, as a server without a handover.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Literal, Self

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from afterload.wire.sse import Decoder

CLIENT = resources.files("afterload") / "static/afterload.js"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n["
SCRIPT = '<script src="/afterload.js" data-position="{position}" async></script>'


def block(event: str | None, data: Any, *, id: str | None = None, retry: int | None = None) -> bytes:
    """A block of the event stream; data that is no str is JSON, a list of lines for patch and snapshot."""
    if event in ("patch", "snapshot"):
        lines = [json.dumps(line) for line in data]
    else:
        lines = [data] if isinstance(data, str) else [json.dumps(data)]
    fields = [("event", event), ("id", id), ("retry", retry), *(("data", line) for line in lines)]
    return "".join(f"{n}: {v}\n" for n, v in fields if v is not None).encode() + b"\n"


def hello(*channels: str, id: str = "0", retry: int = 500, **more: Any) -> bytes:
    """The first block of a stream that follows these channels."""
    data = {"v": 1, "resumed": False, "heartbeat": 20, "channels": channels or ["a"], **more}
    return block("hello", data, id=id, retry=retry)


def page(body: str, *, position: str | None = "start", head: str = "<title>served</title>") -> str:
    """A page that loads the client, unless its position is None."""
    script = "" if position is None else SCRIPT.format(position=position)
    head = f"<meta charset=utf-8>{head}"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}{script}</body></html>"


@dataclass
class Asked:
    """A request that came, and what answers it.

    Attributes:
        wire: "stream", "websocket", "poll", "html", "close" or "other".
        position: that it sent.
        waits: seconds that a poll would wait.
        at: when it came.
        open: its answer has begun.
        gone: the page has let go of it, or it is over.
    """

    path: str
    wire: str
    position: str | None
    waits: float = 0
    at: float = field(default_factory=time.monotonic)
    open: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    _socket: socket.socket | None = None
    _write: Callable[[bytes], object] | None = None

    def send(self, *blocks: bytes) -> None:
        """Writes each as it is, at once: bytes of a stream, a message of a WebSocket, blocks for the next poll."""
        assert self.open.wait(10)
        assert self._write is not None
        for data in blocks:
            self._write(data)

    @property
    def held(self) -> bool:
        """Whether the page waits for what this is to say."""
        return self.open.is_set() and not self.gone.is_set() and (self.wire != "poll" or self.waits > 0)

    def cut(self) -> None:
        """Ends the connection, as a network or a restart does."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                if (
                    self.held and self.wire == "poll"
                ):  # an answer that has not begun Firefox asks for again by itself
                    self._socket.sendall(BEGUN)
                self._socket.shutdown(socket.SHUT_RDWR)


Answer = tuple[int, dict[str, str], str]
How = Literal["open", "held", "refused"]


_used: set[int] = set()


class Wire:
    """The server.

    Attributes:
        html: what a request for HTML gets, or an answer instead of it.
        greeting: what a stream begins with, by the request.
        answers: by wire: (status, headers, body) for the next requests, instead of the page or a stream.
        wires: how each wire is: "open", "refused", or "held": nothing of it gets through, as by a proxy that buffers.
        asked: all requests for the page so far.
    """

    def __init__(self) -> None:
        self.html: str = page("")
        self.headers: dict[str, str] = {}
        self.greeting: Callable[[Asked], bytes] = lambda asked: hello(id=asked.position or "0")
        self.answers: dict[str, list[Answer]] = {"stream": [], "html": [], "websocket": [], "poll": []}
        self.wires: dict[str, How] = {"stream": "open", "websocket": "refused", "poll": "open"}
        self.asked: list[Asked] = []
        self._news = threading.Condition()
        self._polled: list[bytes] = []  # blocks that no poll has got yet
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                """Nothing: a test that fails shows its page."""

            def do_GET(self) -> None:
                self.close_connection = True
                wire._answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args: Any) -> None:
                """A browser that goes away is no error."""

        # A browser keeps what an earlier page of the same origin has stored: which wires do not work there.
        self._server = Server(("127.0.0.1", 0), Handler)
        while self._server.server_port in _used:
            self._server.server_close()
            self._server = Server(("127.0.0.1", 0), Handler)
        _used.add(self._server.server_port)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/page"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for asked in list(self.asked):
            asked.cut()
        self._server.shutdown()
        self._server.server_close()

    def only(self, *names: str) -> None:
        """Lets these wires be open, and refuses the others."""
        self.wires = {name: "open" if name in names else "refused" for name in self.wires}

    def requests(self, wire: str) -> list[Asked]:
        """The requests of one kind so far."""
        return [asked for asked in list(self.asked) if asked.wire == wire]

    def wait(self, wire: str, number: int, timeout: float = 10.0) -> Asked:
        """The n-th request of a kind, from 1; waits for it."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.requests(wire)) >= number, timeout):
                raise AssertionError(
                    f"no {number}. request for {wire}, but {[(a.wire, a.path) for a in self.asked]}"
                )
        return self.requests(wire)[number - 1]

    def stream(self, number: int = 1, timeout: float = 10.0) -> Asked:
        """The n-th stream, once it is open."""
        return self.wait("stream", number, timeout)

    def line(self, wire: str, number: int = 1, timeout: float = 10.0) -> Asked:
        """The n-th time that a page has connected by this wire: of polls, those that ask at once."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.lines(wire)) >= number, timeout):
                raise AssertionError(f"no {number}. {wire}, but {[(a.wire, a.waits) for a in self.asked]}")
        return self.lines(wire)[number - 1]

    def lines(self, wire: str) -> list[Asked]:
        """All times so far that a page has connected by this wire."""
        return [asked for asked in self.requests(wire) if not asked.waits]

    def held(self, timeout: float = 10.0) -> list[Asked]:
        """What the page follows by now; waits for it. Of polls it is the one that waits."""
        deadline = time.monotonic() + timeout
        while not (found := [asked for asked in list(self.asked) if asked.held]):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing is held, but {[(a.wire, a.waits) for a in self.asked]}")
            time.sleep(0.01)
        return found

    def cut(self) -> None:
        """Cuts what the page follows by; waits for it."""
        for asked in self.held():
            asked.cut()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        if path == "/afterload.js":
            return respond(request, 200, {"Content-Type": "text/javascript"}, CLIENT.read_text("utf-8"))
        asked = Asked(path, wire_of(request), request.headers["Last-Event-ID"], _socket=request.connection)
        asked.waits = float(request.headers["Al-Wait"] or 0)
        for name in (request.headers["Sec-WebSocket-Protocol"] or "").split(", "):
            if name.startswith("afterload.position."):
                asked.position = name.removeprefix("afterload.position.")
        with self._news:
            self.asked.append(asked)
            self._news.notify_all()
        try:
            return self._answer_to(request, asked)
        finally:
            asked.gone.set()

    def _answer_to(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        if asked.path != "/page":
            return respond(request, 200, {"Content-Type": "text/html"}, page("elsewhere", position=None))
        if asked.wire == "close":
            return respond(request, 204, {}, "")
        if self.answers.get(asked.wire):
            return respond(request, *self.answers[asked.wire].pop(0))
        how = self.wires.get(asked.wire)
        if how is None:
            headers = {"Content-Type": "text/html; charset=utf-8", **self.headers}
            return respond(request, 200, headers, self.html)
        if how == "held":
            return until_gone(request.connection, lambda data: True)
        if how == "refused":
            return respond(request, 400, {}, "no such wire")
        return {"stream": self._stream, "websocket": self._websocket, "poll": self._poll}[asked.wire](
            request, asked
        )

    def _stream(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream; charset=utf-8")
        request.send_header("Connection", "close")
        request.end_headers()
        self._open(asked, request.connection.sendall)
        until_gone(request.connection, lambda data: True)

    def _websocket(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        handshake = ServerProtocol(select_subprotocol=lambda _, offered: next(iter(offered), None))
        protocol = ServerProtocol(state=OPEN)
        lock = threading.Lock()

        def flush(of: ServerProtocol = protocol) -> None:
            request.connection.sendall(b"".join(of.data_to_send()))

        def write(data: bytes) -> None:
            with lock:
                protocol.send_text(data)
                flush()

        def read(data: bytes) -> bool:
            with lock:
                protocol.receive_data(data)
                flush()
                return protocol.state is OPEN

        headers = Headers(list(request.headers.items()))
        handshake.send_response(handshake.accept(Request(request.path, headers)))
        flush(handshake)
        self._open(asked, write)
        until_gone(request.connection, read)

    def _poll(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        def write(data: bytes) -> None:
            with self._news:
                self._polled.append(data)
                self._news.notify_all()

        greeting = blocks_of(self.greeting(asked))
        asked._write = write
        asked.open.set()
        watched = (request.connection, lambda data: True, asked.gone)
        threading.Thread(target=until_gone, args=watched, daemon=True).start()
        with self._news:
            self._news.wait_for(lambda: self._polled or asked.gone.is_set() or not asked.waits, asked.waits)
            new = [] if asked.gone.is_set() else self._polled
            self._polled = self._polled if asked.gone.is_set() else []
        found = [*(greeting[:1] if asked.waits else greeting), *blocks_of(b"".join(new))]
        if asked.gone.is_set():
            return None
        if len(found) == 1 and asked.waits:
            return respond(request, 204, {}, "")
        return respond(request, 200, {"Content-Type": "application/json"}, json.dumps(found))

    def _open(self, asked: Asked, write: Callable[[bytes], object]) -> None:
        write(self.greeting(asked))
        asked._write = write
        asked.open.set()


def wire_of(request: BaseHTTPRequestHandler) -> str:
    """What a request is for."""
    headers = request.headers
    accept = headers["Accept"] or ""
    if headers["Upgrade"]:
        return "websocket"
    if accept == "text/event-stream":
        return "close" if headers["Al-Close"] else "stream"
    if accept == "application/json" and headers["Last-Event-ID"]:
        return "poll"
    return "html" if accept.startswith("text/html") else "other"


def blocks_of(stream: bytes) -> list[list[Any]]:
    """The blocks of a stream as a poll gives them."""
    found: list[list[Any]] = []
    for event in Decoder().feed(stream):
        lines: list[Any] = event.data.split("\n")
        lines = [event.data] if event.event == "message" else [json.loads(line) for line in lines]
        if event.event == "hello":
            lines[0]["retry"] = event.retry
        found.append([event.event, event.id or None, *lines])
    return found


def until_gone(
    connection: socket.socket, read: Callable[[bytes], bool], gone: threading.Event | None = None
) -> None:
    """Waits until the other side has closed, or `read`, which is given what it sends, says that it has."""
    with contextlib.suppress(OSError):
        while (data := connection.recv(65536)) and read(data):
            pass
    if gone:
        gone.set()


def respond(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: str) -> None:
    """One whole answer."""
    data = body.encode()
    request.send_response(status)
    for name, value in {"Cache-Control": "no-store", "Connection": "close", **headers}.items():
        request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
