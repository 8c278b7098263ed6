"""Jobs that go on until a file says that they may end; gunicorn is given `tests.servers.jobs_app:app`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, jsonify
from jinja2 import DictLoader

from afterload import append_text
from afterload.flask import Live

FOLDER = Path(os.environ.get("JOBS_FOLDER", "."))

app = Flask(__name__)
app.jinja_loader = DictLoader({"job.html": "<p id=n></p><p id=log></p>{{ live_client() }}"})  # type: ignore[assignment]
app.config["AFTERLOAD_SHORT_RETRY"] = 500
live = Live(app)


def counting(name: str) -> Iterator[object]:
    """Counts until there is a file of its name; makes another one when it ends, however it does."""
    try:
        count = 0
        while not (FOLDER / name).exists():
            count += 1
            yield [{"#n": count}, append_text("#log", ".")] if count <= 3 else {"#n": count}
            live.sleep(0.01)
        yield {"#n": "all"}
    finally:
        (FOLDER / f"{name}-ended").touch()


@app.post("/start/<name>")
def start(name: str) -> Response:
    return jsonify(id=live.start(counting, name).id, pid=os.getpid())


@app.get("/jobs/<id>")
def follow(id: str) -> Response:
    return live.page("job.html", live.job(id))


@app.get("/status/<id>")
def status(id: str) -> Response:
    return jsonify(status=live.job(id).status, pid=os.getpid())


@app.post("/cancel/<id>")
def cancel(id: str) -> Response:
    return jsonify(told=live.job(id).cancel(), pid=os.getpid())


@app.get("/stats")
def stats() -> Response:
    return jsonify({**live.stats(), "pid": os.getpid()})
