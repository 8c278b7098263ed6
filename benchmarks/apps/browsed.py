"""What is measured in a browser: one element that is updated many times, by ways that a page can be sent them.

Each page tells `/found` what it has seen: the milliseconds from the first update that was applied to the last, the
elements there are then, and how many blocks of ours were applied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from flask import Flask, Response, render_template, request
from markupsafe import Markup

from afterload import text
from afterload.blocks import Hello
from afterload.flask import Live
from afterload.log import End, Patches, Step
from afterload.wire import document as wire

from .rows import rows

app = Flask(__name__)
app.config.from_prefixed_env("BENCH")
live = Live(app)
found: SimpleQueue[Any] = SimpleQueue()


@app.get("/loop")
def as_a_loop() -> Response:
    def updates(rows: Iterator[str]) -> Iterator[dict[str, str]]:
        for row in rows:
            yield {"#data": row}

    return live.document("browsed.html", updates(rows(request.args, live.sleep)))


@app.get("/blocks")
def as_blocks() -> str:
    """The same as it would be if each update went out on its own, all at once."""
    blocks = [
        wire.step(Step((Patches("~", number, (text("#data", row),), number - 1),), None)).decode()
        for number, row in enumerate(rows(request.args, live.sleep), 1)
    ]
    hello = wire.hello(Hello(["~"], live.settings.heartbeat)).decode()
    end = wire.step(Step((End("~", "done", ""),), None)).decode()
    sent = Markup(wire.opening() + Markup(hello + "".join(blocks) + end))
    return wire.closed(render_template("browsed.html", live_updates=lambda: sent))


@app.get("/snippets")
def as_snippets() -> str:
    rest = "" if "keep" in request.args else ";document.currentScript.remove()"
    sent = Markup(
        "".join(
            f'<script>document.getElementById("data").textContent="{row}"{rest}</script>'
            for row in rows(request.args, live.sleep)
        )
    )
    return render_template("browsed.html", live_updates=lambda: sent)


@app.post("/found")
def report() -> str:
    found.put(request.get_json(force=True))
    return "ok"


@app.get("/found")
def reported() -> str:
    return json.dumps(found.get(timeout=60))


@app.get("/plain")
def plain() -> str:
    return "ok"
