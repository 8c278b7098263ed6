"""Peers: `flask.stream_template`, and generators that yield the same blocks and bytes as ours, row by row."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Flask, Response, request, stream_template

from afterload.blocks import Hello
from afterload.log import End, Step
from afterload.settings import Settings
from afterload.wire import document as wire

from .rows import rows

app = Flask(__name__)
OPENING = f'<!doctype html>\n<html lang="en"><title>bench</title>\n<p id="data"></p>\n{wire.opening()}' + (
    wire.hello(Hello(["~"], Settings().heartbeat)).decode()
)
ENDING = wire.step(Step((End("~", "done", ""),), None)).decode() + "\n" + wire.closed("</html>")


@app.get("/bare-document")
def bare_document() -> Response:
    def blocks(rows: Iterator[str]) -> Iterator[str]:
        yield OPENING
        for number, row in enumerate(rows, 1):
            yield f"""<af-p p='["patch",["~",{number},[["append_text","#data","{row}"]]]]'></af-p>"""
        yield ENDING

    return Response(blocks(rows(request.args, time.sleep)))


@app.get("/template")
def template() -> Response:
    return Response(stream_template("rows.html", rows=rows(request.args, time.sleep)))


@app.get("/bare-template")
def bare_template() -> Response:
    def pieces(rows: Iterator[str]) -> Iterator[str]:
        yield '<!doctype html>\n<html lang="en"><title>bench</title>\n<ul>\n'
        for row in rows:
            yield f"\n<li>{row}</li>\n"
        yield "\n</ul>\n</html>"

    return Response(pieces(rows(request.args, time.sleep)))


@app.get("/plain")
def plain() -> str:
    return "ok"
