"""A shared loop: one run for all viewers. It starts with the first and stops after the last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Response

from .site import app, live


@live.loop
def clock() -> Iterator[Any]:
    """Ten times a second, the same for everybody."""
    started = datetime.now()
    while True:
        now = datetime.now()
        yield {
            "#time": f"{now:%H:%M:%S}.{now.microsecond // 100_000}",
            "#age": f"{(now - started).seconds} s",
            "#viewers": live.viewers(clock),
        }
        live.sleep(0.1)


@app.get("/clock")
def show_clock() -> Response:
    """The page, and its stream."""
    return live.page("clock.html", clock)
