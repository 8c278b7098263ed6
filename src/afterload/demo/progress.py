"""A shared loop that ends. Who comes late sees the present state with the first block, or the result."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from flask import Response, redirect, url_for

from afterload import attr, text, value

from .site import app, live

STEPS = 200


@live.loop
def work() -> Iterator[Any]:
    """Two hundred steps of very important work."""
    start = time.monotonic()
    for step in range(1, STEPS + 1):
        live.sleep(random.uniform(0.02, 0.13))
        rate = step / (time.monotonic() - start)
        yield [
            value("#bar", step),
            text("#step", step),
            text("#rate", f"{rate:.1f}"),
            text("#left", f"{(STEPS - step) / rate:.0f} s"),
        ]
    yield {"#result": f"Done: {STEPS} steps in {time.monotonic() - start:.1f} s."}
    yield attr("#again", "disabled", None)


@app.get("/progress")
def progress() -> Response:
    """The page, and its stream."""
    return live.page("progress.html", work, steps=STEPS)


@app.post("/progress")
def again() -> Any:
    """Runs the work once more, for everybody."""
    work.restart()
    return redirect(url_for("progress"))
