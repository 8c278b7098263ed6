"""Pages written by hand, with nothing but the browser's EventSource: loops that yield plain strings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from flask import Response

from .site import app, live


def spin() -> Iterator[str]:
    """Never ends."""
    for i, c in enumerate(itertools.cycle("\\|/-")):
        yield f"{c} {i}"
        time.sleep(0.1)


@app.get("/bare")
def bare() -> Response:
    """After a cut, the browser is back after 3 seconds by itself, and the loop goes on."""
    return live.page("bare.html", spin(), into="#data")


def launch() -> Iterator[str]:
    """Ends."""
    for i in range(10, 0, -1):
        yield f"{i} …"
        time.sleep(0.5)
    yield "lift-off"


@app.get("/bare/finite")
def finite() -> Response:
    """After the end the browser asks once more, is answered 204, and stops for good."""
    return live.page("bare.html", launch(), into="#data")
