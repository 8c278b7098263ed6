"""The app whose lines are cut: topics that it remembers over its own death, and a run that begins anew.

How far each topic is stands in the file that SOAK_STORE names, and is written before it is published.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request
from jinja2 import DictLoader
from markupsafe import Markup

from afterload.flask import Live
from tests.soak.script import RUN, TOPICS, entry, html

app = Flask(__name__)
app.jinja_loader = DictLoader(  # type: ignore[assignment]
    {"page.html": "<body>{% for region in regions %}{{ region }}\n{% endfor %}{{ live_client() }}"}
)
live = Live(app, linger=3, heartbeat=2, retry=500)
_store = os.open(os.environ["SOAK_STORE"], os.O_RDWR | os.O_CREAT)
_writing = threading.Lock()
_at_rest = threading.Event()
_rows = 0


def numbers() -> dict[str, int]:
    held = os.pread(_store, 8 * len(TOPICS), 0).ljust(8 * len(TOPICS), b"\0")
    return dict(zip(TOPICS, struct.unpack(f"{len(TOPICS)}Q", held), strict=True))


@live.loop(name=RUN)
def rows() -> Iterator[Any]:
    global _rows
    _rows = 0
    while True:
        if not _at_rest.is_set():
            _rows += 1
            yield entry(RUN, _rows)
        live.sleep(0.1)


@app.get("/<topic>")
def topic(topic: str) -> Response:
    regions = [Markup(html(topic, numbers()[topic]))]
    if request.args.get("run"):
        return live.page("page.html", topic, rows, regions=[*regions, Markup(html(RUN, 0))])
    return live.page("page.html", topic, regions=regions)


@app.post("/advance")
def advance() -> Response:
    """Publishes so many entries more, of each topic that is named."""
    with _writing:
        now = numbers()
        for name, count in request.get_json().items():
            for _ in range(count):
                now[name] += 1
                os.pwrite(_store, struct.pack("Q", now[name]), 8 * TOPICS.index(name))
                live.publish(name, *entry(name, now[name]))
    return jsonify(now)


@app.post("/rest")
def rest() -> Response:
    """The run adds nothing more; how far it is."""
    _at_rest.set()
    return jsonify(_rows)


@app.get("/stats")
def stats() -> Response:
    return jsonify(live.stats())
