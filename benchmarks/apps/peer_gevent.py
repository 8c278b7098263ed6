"""Peer: Flask with a generator for each viewer, under gunicorn's gevent worker."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, Response, request
from gevent.queue import SimpleQueue

app = Flask(__name__)
queues: set[SimpleQueue] = set()


@app.get("/bench")
def bench() -> Response:
    def blocks() -> Iterator[str]:
        queue: SimpleQueue = SimpleQueue()
        queues.add(queue)
        try:
            yield "data: hello\n\n"
            while True:
                yield f"data: {queue.get()}\n\n"
        finally:
            queues.discard(queue)

    return Response(blocks(), mimetype="text/event-stream")


@app.post("/publish")
def publish() -> str:
    value = request.get_data(as_text=True)
    for queue in list(queues):
        queue.put(value)
    return "ok"


@app.get("/plain")
def plain() -> str:
    return "ok"
