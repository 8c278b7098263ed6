"""A site whose documents answer forms, for real servers to run.

`python -m tests.handover.posted PORT threaded|debug|tls|wsgiref` runs it on Werkzeug, or on a server that nobody knows;
gunicorn is given `tests.handover.posted:app`. `?read=` says what a view does with the body before it answers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
from jinja2 import DictLoader

from afterload.flask import Live

ROWS = 20_000
TEMPLATES = {
    "report.html": "<p>{{ got }}</p><p id=n></p>{{ live_updates() }}<p>that was all</p></body>",
    "rows.html": "<ul>{% for row in rows %}<li>{{ row }}{% endfor %}</ul>",
}

app = flask.Flask(__name__)
app.jinja_env.loader = DictLoader(TEMPLATES)
live = Live(app)
go = threading.Event()


def form() -> str:
    return ",".join(f"{name}={len(value)}" for name, value in flask.request.form.items())


READS: dict[str, Callable[[], object]] = {
    "form": form,
    "all": lambda: len(flask.request.get_data()),
    "stream": lambda: len(flask.request.stream.read()),
    "some": lambda: len(flask.request.stream.read(10)),
    "line": lambda: flask.request.stream.readline().decode().strip(),
    "nothing": lambda: "nothing",
}


def read() -> object:
    return READS[flask.request.args.get("read", "nothing")]()


@app.route("/report", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def report() -> Any:
    """Goes on until somebody says go."""

    def steps() -> Iterator[dict[str, str]]:
        yield {"#n": "begun"}
        while not go.is_set():
            live.sleep(0.01)
        yield {"#n": "done"}

    go.clear()
    return live.document("report.html", steps(), got=read())


@app.post("/rows")
def rows() -> Any:
    """The same bytes each time, and more than any buffer holds."""
    return live.stream_template("rows.html", rows=[read(), *range(ROWS)])


@app.post("/echo")
def echo() -> Any:
    """Reads the body while it answers."""
    return live.stream_template("rows.html", rows=(line.decode().strip() for line in flask.request.stream))


@app.post("/go")
def go_on() -> str:
    go.set()
    return "gone"


@app.get("/stats")
def stats() -> Any:
    return flask.jsonify({"handovers": 0, "fallbacks": 0, **live.stats()})


def main(port: str, kind: str) -> None:
    if kind == "wsgiref":
        from wsgiref.simple_server import make_server

        with make_server("127.0.0.1", int(port), app) as server:
            print("Running on", port, flush=True)
            server.serve_forever()
        return
    from werkzeug.serving import run_simple

    options: dict[str, dict[str, Any]] = {
        "threaded": {},
        "debug": {"use_reloader": True, "use_debugger": True, "exclude_patterns": ["*"]},
    }
    if kind == "tls":
        options["tls"] = {"ssl_context": (os.environ["LAB_CERT"], os.environ["LAB_KEY"])}
    run_simple("127.0.0.1", int(port), app, threaded=True, **options[kind])


if __name__ == "__main__":
    main(*sys.argv[1:])
