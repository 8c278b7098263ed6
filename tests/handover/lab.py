"""A bare WSGI application that takes connections, for real servers to run, and a miniature of a hub.

`python -m tests.handover.lab PORT threaded|single|debug|tls|processes` runs it on Werkzeug; gunicorn is given
`tests.handover.lab:app`. Nothing of the real hub is in it: what these tests show is the handover's own doing.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from afterload import handover

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TEXT = ("Content-Type", "text/plain")


class Hub:
    """Holds what was taken; notices who leaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: dict[int, socket.socket] = {}
        self.left: list[str] = []
        self.poll = select.epoll()
        threading.Thread(target=self.run, daemon=True).start()

    def adopt(self, sock: socket.socket, first: bytes) -> None:
        with self.lock:
            sock.send(first)
            self.held[sock.fileno()] = sock
            self.poll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    def run(self) -> None:
        while True:
            for fd, _ in self.poll.poll():
                with self.lock:
                    sock = self.held.get(fd)
                    if sock is None:
                        continue
                    try:
                        gone = "" if sock.recv(65536) else "fin"
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        gone = repr(error)
                    if gone:
                        self.left.append(gone)
                        self.poll.unregister(fd)
                        self.held.pop(fd).close()

    def say(self, data: bytes) -> None:
        with self.lock:
            for sock in self.held.values():
                sock.send(data)

    def fill(self) -> int:
        """Writes to the one viewer until it takes no more; the number of bytes."""
        with self.lock:
            [sock] = self.held.values()
            count = 0
            try:
                while True:
                    count += sock.send(b"#" * 65536)
            except BlockingIOError:
                return count

    def end(self) -> None:
        with self.lock:
            for fd, sock in self.held.items():
                self.poll.unregister(fd)
                sock.shutdown(socket.SHUT_WR)
                try:
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass
                sock.close()
            self.held.clear()


_hub: list[Hub] = []


def the_hub() -> Hub:
    if not _hub:
        _hub.append(Hub())
    return _hub[0]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    handover.watch(environ)
    path = environ["PATH_INFO"]
    query = {key: value[0] for key, value in parse_qs(environ["QUERY_STRING"]).items()}

    def answer(text: object, *headers: tuple[str, str]) -> list[bytes]:
        data = str(text).encode()
        start_response("200 OK", [TEXT, ("Content-Length", str(len(data))), *headers])
        return [data]

    if path in ("/stream", "/boom", "/forgets", "/flood"):
        return stream(path, environ, start_response)
    if path == "/fallback":
        pair = handover.Fallback.open(environ, handover.stopping)
        the_hub().adopt(pair.hub_end, b": fallback\n\n")
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return pair.body
    if path == "/say":
        the_hub().say(query["text"].encode())
        return answer("said")
    if path == "/fill":
        return answer(the_hub().fill())
    if path == "/end":
        the_hub().end()
        return answer("ended")
    if path == "/several":
        return answer(handover.several(environ, start_response))
    if path == "/spare":
        return answer(handover.spare_threads(environ, start_response))
    if path == "/state":
        return answer(json.dumps(state()))
    return answer("plain")


def stream(path: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    found = handover.find(environ, start_response)
    if isinstance(found, handover.Refused):
        return refuse(found, environ, start_response)
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    taken = handover.take(found)
    assert isinstance(taken, handover.Taken), taken
    the_hub().adopt(taken.sock, HEAD + f": {taken.server}\n\n".encode())
    if path == "/boom":
        raise RuntimeError("after the take " + "x" * 300_000)
    if path == "/flood":
        return flood(taken)
    if path == "/forgets":
        return iter(taken.body)  # it has no close(): a rude middleware
    return taken.body


def flood(taken: handover.Taken) -> Iterator[bytes]:
    """The body of a middleware that adds one of its own, and more than the dummy takes."""
    yield b"x" * 1_000_000
    taken.body.clear()


def refuse(
    refused: handover.Refused, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    data = f"refused: {refused.reason}".encode()
    headers = [TEXT, ("Content-Length", str(len(data))), ("X-Refused", refused.reason)]
    start_response("200 OK", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]


def state() -> dict[str, Any]:
    """What this process holds, but for what this very request needs."""
    hub = the_hub()
    gc.collect()  # the traceback of an exception after the take keeps the dummy until then
    watched = 0
    fds = os.listdir("/proc/self/fd")
    for fd in fds:
        try:
            if int(fd) != hub.poll.fileno() and "eventpoll" in os.readlink(f"/proc/self/fd/{fd}"):
                watched += Path(f"/proc/self/fdinfo/{fd}").read_text().count("tfd:")
        except OSError:
            pass  # closed meanwhile
    return {"fds": len(fds), "held": len(hub.held), "left": hub.left, "watched": watched}


def main(port: str, mode: str) -> None:
    from werkzeug.serving import run_simple

    options: dict[str, dict[str, Any]] = {
        "threaded": {"threaded": True},
        "single": {},
        "debug": {"threaded": True, "use_reloader": True, "use_debugger": True, "exclude_patterns": ["*"]},
        "processes": {"processes": 3},
    }
    if mode == "tls":
        options["tls"] = {"threaded": True, "ssl_context": (os.environ["LAB_CERT"], os.environ["LAB_KEY"])}
    run_simple("127.0.0.1", int(port), app, **options[mode])


if __name__ == "__main__":
    main(*sys.argv[1:])
