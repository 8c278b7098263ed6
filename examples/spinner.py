"""A loop of each page's own: it counts from 0 on every page, and goes on where it was after a cut."""

import itertools

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def spin():
    for i, c in enumerate(itertools.cycle("\\|/-")):
        yield {"#data": f"{c} {i}"}
        live.sleep(0.1)


@app.get("/")
def index():
    return live.page("spinner.html", spin())
