"""A loop of this viewer's own: it starts with the page, is paused while the page is away, and goes on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from flask import Response

from .site import app, live


def spin() -> Iterator[Any]:
    """Counts, and turns a bar."""
    for i, c in enumerate(itertools.cycle("\\|/-")):
        yield {"#data": f"{c} {i}"}
        time.sleep(0.1)


@app.get("/spinner")
def spinner() -> Response:
    """The page, and its stream."""
    return live.page("spinner.html", spin())
