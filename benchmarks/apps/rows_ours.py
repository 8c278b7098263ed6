"""A page of rows that are added one by one: afterload."""

from __future__ import annotations

from flask import Flask, Response, request
from markupsafe import Markup

from afterload import append
from afterload.flask import Live

from .table import Table

app = Flask(__name__)
app.config.from_prefixed_env("BENCH")
live = Live(app)
table = Table()


def row(number: int) -> Markup:
    return Markup("<li id=row-{0}>@{0}@</li>").format(number)


@app.get("/page")
def page() -> Response:
    return live.page("added.html", "rows", rows=[row(number) for number in table.all()])


@app.post("/add")
def add() -> str:
    number = int(request.get_data())
    if table.add(number):
        live.publish("rows", append("#rows", row(number)))
    return "ok"


@app.get("/plain")
def plain() -> str:
    return "ok"
