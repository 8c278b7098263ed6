"""The same loop as an async generator: a task instead of a thread."""

import asyncio
import itertools

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


async def spin():
    for i, c in enumerate(itertools.cycle("\\|/-")):
        yield {"#data": f"{c} {i}"}
        await asyncio.sleep(0.1)


@app.get("/")
def index():
    return live.page("spinner.html", spin())
