"""A tiny server that speaks the wire by hand, so that a test decides about each byte and each answer.

It knows one page. Every other answer than "here is the page" and "here is a stream that goes on" is put into
`answers` before the request comes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Self

CLIENT = resources.files("afterload") / "static/afterload.js"
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
    """A request that came, and the stream that answers it."""

    path: str
    wire: str  # "html", "stream", "close", "other"
    position: str | None
    at: float
    open: threading.Event = field(default_factory=threading.Event)
    _write: Callable[[bytes], object] | None = None
    _end: threading.Event = field(default_factory=threading.Event)

    def send(self, *blocks: bytes) -> None:
        """Writes bytes as they are, at once."""
        assert self.open.wait(10)
        assert self._write is not None
        for data in blocks:
            self._write(data)

    def cut(self) -> None:
        """Ends the connection, as a network or a restart does."""
        self._end.set()


Answer = tuple[int, dict[str, str], str]


class Wire:
    """The server.

    Attributes:
        html: what a request for HTML gets, or an answer instead of it.
        greeting: what a stream begins with, by the request.
        answers: by wire: (status, headers, body) for the next requests, instead of the page or a stream.
        asked: all requests for the page so far.
    """

    def __init__(self) -> None:
        self.html: str = page("")
        self.headers: dict[str, str] = {}
        self.greeting: Callable[[Asked], bytes] = lambda asked: hello(id=asked.position or "0")
        self.answers: dict[str, list[Answer]] = {"stream": [], "html": []}
        self.asked: list[Asked] = []
        self._news = threading.Condition()
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

            def handle_error(self, *args: Any) -> None:
                """A browser that goes away is no error."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/page"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for asked in self.asked:
            asked.cut()
        self._server.shutdown()
        self._server.server_close()

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

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        if path == "/afterload.js":
            return respond(request, 200, {"Content-Type": "text/javascript"}, CLIENT.read_text("utf-8"))
        accept = request.headers["Accept"] or ""
        wire = "html" if accept.startswith("text/html") else "other"
        if accept == "text/event-stream":
            wire = "close" if request.headers["Al-Close"] else "stream"
        asked = Asked(path, wire, request.headers["Last-Event-ID"], time.monotonic())
        with self._news:
            self.asked.append(asked)
            self._news.notify_all()
        if path != "/page":
            return respond(request, 200, {"Content-Type": "text/html"}, page("elsewhere", position=None))
        if wire == "close":
            return respond(request, 204, {}, "")
        if self.answers.get(wire):
            return respond(request, *self.answers[wire].pop(0))
        if wire != "stream":
            headers = {"Content-Type": "text/html; charset=utf-8", **self.headers}
            return respond(request, 200, headers, self.html)
        self._hold(request, asked)
        return None

    def _hold(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream; charset=utf-8")
        request.send_header("Connection", "close")
        request.end_headers()

        def write(data: bytes) -> None:
            request.wfile.write(data)
            request.wfile.flush()

        write(self.greeting(asked))
        asked._write = write
        asked.open.set()
        asked._end.wait()


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
