"""A loop of plain strings, for a page written by hand with the browser's EventSource."""

import itertools

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def spin():
    for i, c in enumerate(itertools.cycle("\\|/-")):
        yield f"{c} {i}"
        live.sleep(0.1)


@app.get("/")
def index():
    return live.page("bare.html", spin(), into="#data")


def launch():
    for i in (3, 2, 1, "lift-off"):
        yield str(i)
        live.sleep(0.3)


@app.get("/launch")
def finite():
    return live.page("bare.html", launch(), into="#data")
