"""A stock in a file, asked for by a snapshot source; gunicorn is given `tests.servers.stock_app:app`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify
from jinja2 import DictLoader
from markupsafe import Markup

from afterload import append, html
from afterload.flask import Live

FOLDER = Path(os.environ.get("STOCK_FOLDER", "."))

app = Flask(__name__)
app.jinja_loader = DictLoader(  # type: ignore[assignment]
    {
        "plain.html": "<ul id=stock></ul>{{ live_client() }}",
        "painted.html": '<ul id=stock>{{ live.state("stock")["#stock"] }}</ul>{{ live_client() }}',
    }
)
live = Live(app)


def row(thing: str) -> Markup:
    return Markup("<li id={0}>{0}</li>").format(thing)


def things() -> list[str]:
    file = FOLDER / "things"
    return file.read_text().split() if file.exists() else []


@live.snapshot("stock")
def stock() -> Any:
    with (FOLDER / "asked").open("a") as asked:
        asked.write(f"{os.getpid()}\n")
    return html("#stock", Markup().join(map(row, things())))


@app.get("/<template>")
def index(template: str) -> Response:
    return live.page(f"{template}.html", "stock")


@app.post("/add/<thing>")
def add(thing: str) -> Response:
    with (FOLDER / "things").open("a") as file:
        file.write(f"{thing}\n")
    live.publish("stock", append("#stock", row(thing)))
    return jsonify(pid=os.getpid())


@app.get("/stats")
def stats() -> Response:
    return jsonify({**live.stats(), "pid": os.getpid()})
