"""Run in a network of its own: a page follows, and then no packet of its gets through any more, without a FIN.

Prints what became of its viewer, as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import threading
import time

from flask import Flask, Response
from jinja2 import DictLoader
from werkzeug.serving import make_server

from afterload.flask import Live

HEARTBEAT = 2.0
PORT = 8000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1

app = Flask(__name__)
app.jinja_loader = DictLoader({"page.html": "{{ live_client() }}"})  # type: ignore[assignment]
live = Live(app, heartbeat=HEARTBEAT)


@app.get("/")
def index() -> Response:
    return live.page("page.html", "topic")


def loopback(*, up: bool) -> None:
    """Switches the one interface of this network."""
    name = b"lo".ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _GET_FLAGS, name + bytes(24))
        [flags] = struct.unpack("H", answer[16:18])
        fcntl.ioctl(
            sock, _SET_FLAGS, name + struct.pack("H", flags | _UP if up else flags & ~_UP) + bytes(22)
        )


def main() -> None:
    loopback(up=True)
    server = make_server("127.0.0.1", PORT, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = socket.create_connection(("127.0.0.1", PORT))
    page.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n")
    seen = b""
    while b"event: hello" not in seen:
        seen += page.recv(4096)
    before = live.viewers("topic")
    loopback(up=False)
    began = time.monotonic()
    while live.viewers("topic") and time.monotonic() - began < 30 * HEARTBEAT:
        time.sleep(0.02)
    heartbeats = (time.monotonic() - began) / HEARTBEAT
    ended = {name: n for name, n in live.stats().items() if name.startswith("ended_")}
    print(
        json.dumps({"before": before, "after": live.viewers("topic"), "heartbeats": heartbeats, **ended}),
        flush=True,
    )
    os._exit(0)


if __name__ == "__main__":
    main()
