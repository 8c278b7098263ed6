"""A document that goes on updating itself: one response, no client file, complete after five letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Response

from .site import app, live


def letters() -> Iterator[Any]:
    """One letter a second."""
    for letter in "hello":
        yield {"#data": letter}
        live.sleep(1)


@app.get("/hello")
def hello() -> Response:
    """All of it."""
    return live.document("hello.html", letters())
