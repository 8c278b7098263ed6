"""Peers under uvicorn: bare Starlette and sse-starlette, with a queue for each viewer as they show it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

queues: set[asyncio.Queue[str]] = set()
WITH_LIBRARY = os.environ.get("BENCH_PEER") == "sse-starlette"


async def values() -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)
    try:
        yield "hello"
        while True:
            yield await queue.get()
    finally:
        queues.discard(queue)


async def blocks() -> AsyncIterator[bytes]:
    async for value in values():
        yield f"data: {value}\n\n".encode()


async def bench(request: Request) -> Response:
    if WITH_LIBRARY:
        from sse_starlette.sse import EventSourceResponse

        return EventSourceResponse({"data": value} async for value in values())
    return StreamingResponse(blocks(), media_type="text/event-stream")


async def publish(request: Request) -> Response:
    value = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(value)
    return PlainTextResponse("ok")


async def plain(request: Request) -> Response:
    return PlainTextResponse("ok")


app = Starlette(
    routes=[
        Route("/bench", bench),
        Route("/publish", publish, methods=["POST"]),
        Route("/plain", plain),
    ]
)
