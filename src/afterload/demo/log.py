"""Lines that are added: of the last 500, those that a page has missed come when it is back."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Response
from markupsafe import Markup

from afterload import append

from .site import app, live

LINE = Markup('<div class="{}"><time>{}</time> <b>{}</b> {}</div>')
SAYINGS = [
    ("debug", "cache hit for /basket"),
    ("info", "GET /orders 200 in 12 ms"),
    ("info", "user <anonymous> signed in"),
    ("info", "POST /pay 201 in 84 ms"),
    ("warning", "retrying payment gateway, attempt 2"),
    ("error", "connection to warehouse lost: timeout after 5 s"),
]


@live.loop
def lines() -> Iterator[Any]:
    """About ten lines a second."""
    for number in itertools.count(1):
        level, saying = random.choice(SAYINGS)
        now = f"{datetime.now():%H:%M:%S}"
        yield append("#log", LINE.format(level, now, level, f"#{number} {saying}"), keep=500)
        live.sleep(random.uniform(0.02, 0.18))


@app.get("/log")
def log() -> Response:
    """The page, and its stream."""
    return live.page("log.html", lines)
