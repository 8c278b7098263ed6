"""Pages whose HTML shows the state of what they follow; gunicorn is given `tests.browser.painted_app:app`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify
from jinja2 import DictLoader
from markupsafe import Markup

from afterload import append, text
from afterload.flask import Live

TEMPLATE = (
    "<!doctype html><title>Painted</title><p id=count>{{ live.state('work').get('#count', 0) }}</p>"
    "<ul id=log>{{ live.state('work')['#log'] }}</ul>{% if errors %}<ul id=errors></ul>{% endif %}{{ live_client() }}"
)

app = Flask(__name__)
app.jinja_loader = DictLoader({"page.html": TEMPLATE})  # type: ignore[assignment]
live = Live(app)
more = threading.Semaphore(0)


@live.loop
def work() -> Iterator[Any]:
    """Adds a line for each time that it is asked to."""
    count = 0
    while True:
        while not more.acquire(blocking=False):
            live.sleep(0.02)
        count += 1
        line = Markup("<li>{}</li>").format(count)
        yield text("#count", count), append("#log", line), append("#errors", line)


@app.get("/all")
def shows_all() -> Response:
    return live.page("page.html", work)


@app.get("/some")
def shows_some() -> Response:
    return live.page("page.html", work, errors=True)


@app.post("/more")
def go_on() -> Response:
    more.release()
    return jsonify()


@app.post("/anew")
def anew() -> Response:
    work.restart()
    return jsonify()
