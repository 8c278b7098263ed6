"""A template that is sent while it is rendered, and patches what it has sent already."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response

from .site import app, live


def letters() -> Iterator[tuple[int, str]]:
    """Fifty letters, ten a second."""
    for step in enumerate("hello" * 10):
        yield step
        live.sleep(0.1)


@app.get("/template")
def template() -> Response:
    """All of it."""
    return live.stream_template("template.html", data=letters())
