"""The app of the soak tests: an ever-growing count on channels, shared loops and private ones, and what it costs."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from jinja2 import DictLoader

from afterload import text
from afterload.flask import Live

app = Flask(__name__)
app.jinja_loader = DictLoader({"page.html": "<p id=n></p><ul id=rows></ul>{{ live_client() }}"})  # type: ignore[assignment]
live = Live(app, linger=2, heartbeat=5, max_loops=2000, retry=500)


def count() -> Iterator[Any]:
    for n in itertools.count():
        yield {"#n": n}
        live.sleep(0.05)


@live.loop
def shared() -> Iterator[Any]:
    yield from count()


@app.get("/private")
def private() -> Response:
    return live.page("page.html", count())


@app.get("/shared")
def shared_page() -> Response:
    return live.page("page.html", shared)


@app.get("/named/<name>")
def named(name: str) -> Response:
    return live.page("page.html", "all", name)


@app.post("/secrets")
def secrets() -> str:
    """Publishes the secrets of these channels to them; the last position."""
    return [live.publish(name, text("#n", f"secret-{name}")) for name in request.get_json()][-1]


@app.get("/cost")
def cost() -> Response:
    """What this process holds."""
    resident = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    fanout = live.hub.fanout
    return jsonify(
        fds=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        resident=resident,
        loops=live.loops.running,
        groups=len(fanout.groups),
        channels=len(live.hub.log.channels),
        watched=len(fanout.watchers) + len(fanout.progress) + len(fanout.left),
        **{name: value for name, value in live.stats().items() if name in ("viewers", "errors", "handovers")},
    )
