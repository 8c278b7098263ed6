"""The app that the client's tests open: pages that do what a test tells them to, by requests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, redirect, request

from afterload import Patch
from afterload.flask import Live

app = Flask(__name__)
live = Live(app, heartbeat=float(os.environ.get("HEARTBEAT", "20")), retry=500, linger=30)
# what a database would be: it outlives the server
STORE = Path(os.environ.get("STORE", os.devnull))
CSP = (
    "default-src 'none'; script-src 'self'; connect-src 'self';"
    "require-trusted-types-for 'script'; trusted-types afterload"
)
allowed = {"login": True}


def rows() -> list[str]:
    return STORE.read_text().split() if STORE.is_file() else []


@app.get("/page")
def page() -> Response:
    if not allowed["login"]:
        return redirect("/login")  # type: ignore[return-value]
    response = live.page("page.html", "a", "b", rows=rows())
    if request.args.get("csp"):
        response.headers["Content-Security-Policy"] = CSP
    return response


@app.get("/document")
def document() -> Response:
    steps = request.args.get("steps", 5, int)

    def count() -> Iterator[Any]:
        for i in range(steps):
            yield [{"#count": i}, Patch("html", "#count", f"<b>{i}</b>")]
            live.sleep(0.1)

    response = live.document("document.html", count())
    response.headers["Content-Security-Policy"] = CSP.replace("'self'", "'nonce-abc'", 1)
    return response


@app.get("/login")
def login() -> str:
    return "<p>log in</p>"


@app.get("/private")
def private() -> Response:
    def count() -> Iterator[Any]:
        for i in itertools.count():
            yield {"#count": i}
            live.sleep(0.03)

    return live.page("page.html", count(), rows=[])


@app.get("/words")
def words() -> Response:
    def say() -> Iterator[Any]:
        for word in ("one", "two", "three"):
            yield word
            live.sleep(0.05)

    return live.page("page.html", say(), into="#count", rows=[])


@app.get("/broken")
def broken() -> Response:
    def fail() -> Iterator[Any]:
        yield {"#count": "before"}
        raise ValueError("a secret")

    return live.page("page.html", fail(), rows=[])


@live.loop
def result() -> Iterator[Any]:
    for i in range(5):
        yield {"#count": f"step {i}"}
        live.sleep(0.02)
    yield {"#count": "finished"}


@app.get("/result")
def show_result() -> Response:
    return live.page("page.html", result, rows=[])


runs = itertools.count()


@live.loop
def restarted() -> Iterator[Any]:
    if next(runs) == 0:
        yield {"#head": "only in the first run"}
        live.sleep(600)
    yield {"#count": "finished"}


@app.get("/restarted")
def show_restarted() -> Response:
    return live.page("page.html", restarted, rows=[])


@app.post("/publish/<channel>")
def publish(channel: str) -> str:
    return live.publish(channel, [Patch(*wire) for wire in request.get_json()])


@app.post("/row/<name>")
def row(name: str) -> str:
    with STORE.open("a") as file:
        file.write(f"{name}\n")
    if request.args.get("tell", "1") == "1":
        live.publish("a", Patch("append", "#rows", f'<li id="row-{name}">{name}</li>'))
    return "ok"


@app.post("/restart")
def restart() -> str:
    restarted.restart()
    return "ok"


@app.post("/logout")
def logout() -> str:
    allowed["login"] = False
    return "ok"


@app.get("/stats")
def stats() -> dict[str, Any]:
    return live.stats()


@app.get("/other")
def other() -> str:
    return "<p>another page</p>"


@app.get("/nothing")
def nothing() -> None:
    abort(404)
