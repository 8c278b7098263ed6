"""The same page with sse-starlette, with a queue for each viewer as its examples show it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from .table import Table

table = Table()
queues: set[asyncio.Queue[int]] = set()


async def page(request: Request) -> Response:
    rows = "".join(f"<li>@{number}@</li>" for number in table.all())
    return HTMLResponse(f"<!doctype html><title>bench</title><ul id=rows>{rows}</ul>")


async def stream(request: Request) -> Response:
    async def events() -> AsyncIterator[dict[str, str]]:
        mine: asyncio.Queue[int] = asyncio.Queue()
        queues.add(mine)
        try:
            while True:
                number = await mine.get()
                yield {"id": f"{number}", "data": f"@{number}@"}
        finally:
            queues.discard(mine)

    return EventSourceResponse(events())


async def add(request: Request) -> Response:
    number = int(await request.body())
    if table.add(number):
        for one in queues:
            one.put_nowait(number)
    return PlainTextResponse("ok")


async def plain(request: Request) -> Response:
    return PlainTextResponse("ok")


app = Starlette(
    routes=[
        Route("/page", page),
        Route("/stream", stream),
        Route("/add", add, methods=["POST"]),
        Route("/plain", plain),
    ]
)
