"""The same page with streams that are views of Flask's, as they are usually written.

`/queue` is as the extensions on pub/sub do it, with a queue for each viewer in place of Redis: whoever is subscribed
gets what is published, each event has its id, and the id that a page comes back with is not looked at. `/polling` is a
generator that looks again and again whether there is more.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

from flask import Flask, Response, render_template, request

from .table import Table

app = Flask(__name__)
table = Table()
queues: set[queue.SimpleQueue[int]] = set()
PAUSE = 0.05


@app.get("/page")
def page() -> str:
    return render_template("added.html", rows=[f"<li>@{number}@</li>" for number in table.all()])


@app.get("/queue")
def by_queue() -> Response:
    def blocks() -> Iterator[str]:
        mine: queue.SimpleQueue[int] = queue.SimpleQueue()
        queues.add(mine)
        try:
            while True:
                yield event(mine.get())
        finally:
            queues.discard(mine)

    return Response(blocks(), mimetype="text/event-stream")


@app.get("/polling")
def by_polling() -> Response:
    def blocks() -> Iterator[str]:
        sent = table.last
        while True:
            for number in range(sent + 1, table.last + 1):
                yield event(number)
                sent = number
            time.sleep(PAUSE)

    return Response(blocks(), mimetype="text/event-stream")


def event(number: int) -> str:
    return f"id: {number}\ndata: @{number}@\n\n"


@app.post("/add")
def add() -> str:
    number = int(request.get_data())
    if table.add(number):
        for one in list(queues):
            one.put(number)
    return "ok"


@app.get("/plain")
def plain() -> str:
    return "ok"
