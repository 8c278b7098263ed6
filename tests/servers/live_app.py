"""A site with a database pool of size one: whatever holds a request or an app context, deadlocks it.

`python -m tests.servers.live_app PORT [tls]` runs it on wsgiref's server, which nobody knows, or on Werkzeug's
with TLS; gunicorn and flask are given `tests.servers.live_app:app`.
"""

from __future__ import annotations

import itertools
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request
from jinja2 import DictLoader

from afterload import append_text, text
from afterload.flask import Live

app = Flask(__name__)
app.jinja_loader = DictLoader(  # type: ignore[assignment]
    {"page.html": "<p id=data>nothing received yet</p><p id=log></p>{{ live_client() }}"}
)
app.config["AFTERLOAD_MAX_LOOPS"] = 100
live = Live(
    app, stall=float(os.environ.get("STALL", "60")), heartbeat=float(os.environ.get("HEARTBEAT", "20"))
)
go = threading.Event()
enough = threading.Event()

pool: queue.Queue[sqlite3.Connection] = queue.Queue(maxsize=1)
pool.put(sqlite3.connect(":memory:", check_same_thread=False))
PATIENCE = 5.0  # seconds; then it is a deadlock, and the request or the loop fails


def database() -> sqlite3.Connection:
    if "connection" not in g:
        g.connection = pool.get(timeout=PATIENCE)
    return g.connection


@app.before_request
def borrow() -> None:
    database()


@app.teardown_appcontext
def give_back(error: BaseException | None) -> None:
    connection = g.pop("connection", None)
    if connection is not None:
        pool.put(connection)


def one() -> int:
    return database().execute("select 1").fetchone()[0]


@app.after_request
def after(response: Response) -> Response:
    response.headers["X-After"] = f"{one()}"
    return response


# Strings are never merged, so what is sent does not depend on the time.


def steps() -> Iterator[str]:
    for i in range(5):
        yield f"step {i + one()}"


@live.loop
def shared() -> Iterator[str]:
    while not go.is_set():
        live.sleep(0.01)
    for i in range(5):
        yield f"shared {i + one()}"


@app.get("/private")
def private() -> Response:
    one()
    return live.page("page.html", steps())


@app.get("/shared")
def shared_page() -> Response:
    return live.page("page.html", shared)


@app.get("/named/<name>")
def named(name: str) -> Response:
    response = live.page("page.html", f"{name}-a", f"{name}-b")
    response.set_cookie("seen", name)
    return response


STATE = 10_000  # characters of the flood's state


@live.loop
def flood() -> Iterator[Any]:
    """A megabyte a second, of which only the last ten kilobytes count; until it is told that it is enough."""
    for number in itertools.count():
        over = enough.is_set()
        yield {"#data": f"{number} {'x' * STATE}", "#log": "over" if over else "going on"}
        if over:
            return
        live.sleep(0.01)


@app.get("/flood")
def flood_page() -> Response:
    return live.page("page.html", flood)


@app.post("/enough")
def that_is_enough() -> str:
    enough.set()
    return "enough"


@app.post("/go")
def go_on() -> str:
    go.set()
    return "gone"


@app.get("/owned/<kind>")
def owned(kind: str) -> Response:
    """Of whoever the header says, unless they have been turned away; slow, where a file says so."""
    user = request.headers["X-User"]
    if Path(request.headers["X-Turned-Away"]).exists():
        abort(403)
    if "X-Slow" in request.headers:
        wait_for(Path(request.headers["X-Slow"]))
    source = "owned" if kind == "shared" else ticks()
    return live.page("page.html", source, owner=user)


def ticks() -> Iterator[str]:
    for i in itertools.count():
        yield f"tick {i}"
        live.sleep(0.05)


@app.post("/revoke/<user>")
def revoke(user: str) -> str:
    live.revoke(owner=user)
    return "revoked"


@app.post("/publish/<channel>/<word>")
def publish(channel: str, word: str) -> str:
    return live.publish(channel, text("#data", word), append_text("#log", f"{word}<br>"))


@app.get("/plain")
def plain() -> str:
    return f"plain {one()}"


@app.get("/slow")
def slow() -> str:
    """Begins by making a file, and ends when it is gone."""
    wait_for(Path(request.args["mark"]))
    return "slow"


def wait_for(mark: Path) -> None:
    give_back(None)
    mark.touch()
    while mark.exists():
        time.sleep(0.01)


@app.get("/stats")
def stats() -> Any:
    here: dict[str, int] = {"pid": os.getpid(), "threads": threading.active_count()}
    following = {name: live.viewers(name) for name in request.args.getlist("of")}
    return jsonify({"handovers": 0, "fallbacks": 0, **live.stats(), **here, "following": following})


@app.get("/forbidden")
def forbidden() -> tuple[str, int]:
    return "not for you", 403


@app.get("/broken")
def broken() -> str:
    raise RuntimeError("secret detail")


def main(port: str, kind: str = "unknown") -> None:
    if kind == "tls":
        from werkzeug.serving import run_simple

        certificate = os.environ["SITE_CERT"], os.environ["SITE_KEY"]
        run_simple("127.0.0.1", int(port), app, threaded=True, ssl_context=certificate)
    else:
        from wsgiref.simple_server import make_server

        with make_server("127.0.0.1", int(port), app) as server:
            print("Running on", port, flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
