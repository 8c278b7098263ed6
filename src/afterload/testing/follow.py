"""Follows pages in an app's own tests.

The request runs in the thread of the test, as always with a test client. The stream behind it is read in
another thread, so that the test can stop waiting whatever the stream does: it holds no timer, and a heartbeat
that goes on for ever does not keep a test alive either.
"""

from __future__ import annotations

import contextlib
import copy
import json
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..patch import Patch
from ..wire.sse import Decoder, Event

__all__ = ["Block", "follow"]

_UNSEEN = ("hello", "ping")


@dataclass(frozen=True)
class Block:
    """One block of a stream, as a page gets it.

    Attributes:
        event: "patch" or "snapshot" (they have patches); "message" (a plain string); "end" (a channel is
            over); "reset", "refresh" or "bye". What each means is in docs/wire.md.
        patches: of a patch or a snapshot, in order; to be compared with what `afterload.text` and so on make.
        text: of a message; and the data of any event that is none of ours.
        channel: of an end or a reset; that of a page's own loop is "~".
        status: of an end: "done", "failed", "cancelled" or "lost".
        message: of an end: what the reader of the page is told.
        id: how far the page is after it; as the header ``Last-Event-ID`` it resumes there.
    """

    event: str
    patches: list[Patch] = field(default_factory=list)
    text: str = ""
    channel: str = ""
    status: str = ""
    message: str = ""
    id: str = ""


def follow(
    client: Any,
    url: str,
    *,
    limit: int | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> list[Block]:
    """Follows a page's stream with a test client, and returns what came.

    A plain ``client.get(url).data`` would never return, as the stream does not end.

    A page is sent what is new at most 60 times a second: what a loop yields faster arrives merged in one
    block, for each target its last text. Where a test is about single steps of a page's own loop, set
    ``AFTERLOAD_AHEAD_ENTRIES = 1`` in the app's configuration for tests: the loop then waits at each `yield`
    until it was sent.

    Args:
        client: a Flask test client, logged in or not.
        url: of the page.
        limit: so many blocks are waited for, not counting `hello` and `ping`; None waits for the stream's
            end.
        headers: further request headers, such as ``{"Last-Event-ID": blocks[-1].id}`` to resume.
        timeout: seconds that the stream may take for that.

    Returns:
        The blocks, without `hello` and `ping`: `limit` of them, or fewer if the stream ended before; an empty list
        if everything is over and the page has all of it (the answer is 204).

    Raises:
        AssertionError: the view did not answer with a stream, or the stream did not bring enough in time.

    Example:
        >>> from flask import Flask
        >>> from afterload import text
        >>> from afterload.flask import Live
        >>> app = Flask(__name__)
        >>> live = Live(app, ahead_entries=1)
        >>> @app.get("/count")
        ... def count():
        ...     return live.page("count.html", ({"#count": i} for i in range(3)))
        >>> blocks = follow(app.test_client(), "/count")
        >>> blocks[0].patches == [text("#count", 0)]
        True
        >>> blocks[-1].event, blocks[-1].status
        ('end', 'done')
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit is a number of blocks from 0, or None, not {limit!r}")
    response = _without_first_chunk(client).get(
        url, headers={"Accept": "text/event-stream", **(headers or {})}, buffered=False
    )
    reader = _Reader(response.response)
    try:
        if response.status_code == 204:
            return []
        if response.status_code != 200 or response.mimetype != "text/event-stream":
            raise AssertionError(f"{url} did not answer with a stream, but with {_described(response)}")
        return _read(reader, url, limit, timeout)
    finally:
        with contextlib.suppress(ValueError):  # a generator cannot be closed while another thread is in it
            response.close()
        reader.stop(1.0)


def _described(response: Any) -> str:
    location = response.headers.get("Location")
    to = f" to {location}" if location else ""
    return f"{response.status}{to}, {response.mimetype or 'without a type'}"


def _read(reader: _Reader, url: str, limit: int | None, timeout: float) -> list[Block]:
    deadline = time.monotonic() + timeout
    found: list[Block] = []
    decoder = Decoder()
    while limit is None or len(found) < limit:
        try:
            chunk = reader.next(deadline)
        except TimeoutError:
            wanted = "its end" if limit is None else f"{limit} blocks"
            came = "\n".join(f"  {block}" for block in found) or "  nothing"
            raise AssertionError(
                f"{url} did not bring {wanted} within {timeout:g} seconds. What came:\n{came}"
            ) from None
        if chunk is None:
            break
        found += [_block(event) for event in decoder.feed(chunk) if event.event not in _UNSEEN]
    return found[:limit]


class _Reader:
    """Iterates a body in a thread of its own: a chunk whenever it is asked for one, and never ahead."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._chunks: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def next(self, deadline: float) -> bytes | None:
        """The next chunk, None at the end.

        Raises:
            TimeoutError: the deadline has passed.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="afterload-follow", daemon=True)
            self._thread.start()
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._asked.put(True)
        try:
            chunk = self._chunks.get(timeout=left)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    def stop(self, timeout: float) -> None:
        """Reads no more, and waits for the thread; in vain if the body blocks it, which was closed before."""
        self._asked.put(False)
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        chunks = iter(self._body)
        while self._asked.get():
            try:
                self._chunks.put(next(chunks, None))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                self._chunks.put(error)


class _Unblocked:
    """Stands for a client's app: a test client waits for the first chunk of a body, and gets an empty one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        return _Body(self._app(environ, start_response))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)


class _Body(Iterator[bytes]):
    def __init__(self, body: Any) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None

    def __next__(self) -> bytes:
        if self._chunks is None:
            self._chunks = iter(self._body)
            return b""
        return next(self._chunks)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _without_first_chunk(client: Any) -> Any:
    # A copy has the same cookies: they are one dict.
    client = copy.copy(client)
    client.application = _Unblocked(client.application)
    return client


def _block(event: Event) -> Block:
    match event.event:
        case "patch" | "snapshot":
            return Block(event.event, patches=list(_patches(event.data)), id=event.id)
        case "end" | "reset":
            known = {name: json.loads(event.data).get(name, "") for name in ("channel", "status", "message")}
            return Block(event.event, **known, id=event.id)
        case "refresh" | "bye":
            return Block(event.event, id=event.id)
        case other:
            return Block(other, text=event.data, id=event.id)


def _patches(data: str) -> Iterator[Patch]:
    for line in data.split("\n"):
        _, _, patches, *_ = json.loads(line)
        for patch in patches:
            yield Patch(*patch)
