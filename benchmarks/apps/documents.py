"""afterload under test: a document that goes on, and a streamed template, as any app would have them."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, Response, request

from afterload import Patch, append_text
from afterload.flask import Live

from .rows import rows

app = Flask(__name__)
app.config.from_prefixed_env("BENCH")
live = Live(app)


@app.get("/document")
def document() -> Response:
    # each row is there at the end, however many of them go out together
    def appended(rows: Iterator[str]) -> Iterator[Patch]:
        for row in rows:
            yield append_text("#data", row)

    return live.document("document.html", appended(rows(request.args, live.sleep)))


@app.get("/template")
def template() -> Response:
    return live.stream_template("rows.html", rows=rows(request.args, live.sleep))


@app.get("/plain")
def plain() -> str:
    return "ok"
