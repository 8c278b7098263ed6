"""Helpers for an app's own tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .wire.sse import Decoder, Event


def follow(
    client: Any, url: str, *, limit: int | None = None, headers: Mapping[str, str] | None = None
) -> list[Event]:
    """Follows a page's stream with a test client, and returns what came.

    A plain ``client.get(url).data`` would never return, as the stream does not end.

    Args:
        client: a Flask (Werkzeug) test client.
        url: of the page.
        limit: so many blocks are awaited, not counting `hello` and `ping`; None waits for the stream's end.
        headers: further request headers, such as ``{"Last-Event-ID": position}``.

    Returns:
        The blocks, without `hello` and `ping`. The `data` of one is as on the wire: JSON, but for plain strings.

    Raises:
        AssertionError: the view did not answer with a stream.

    Example:
        >>> def test_spinner(client):
        ...     blocks = follow(client, "/spinner", limit=2)
        ...     assert "#data" in blocks[0].data
    """
    found: list[Event] = []
    response = client.get(url, headers={"Accept": "text/event-stream", **(headers or {})}, buffered=False)
    try:
        if response.status_code == 204:
            return found
        if response.status_code != 200 or response.mimetype != "text/event-stream":
            raise AssertionError(
                f"{url} answered {response.status} as {response.mimetype}, not with a stream"
            )
        if limit is not None and limit <= 0:
            return found
        decoder = Decoder()
        chunks: Iterable[bytes] = response.response
        for chunk in chunks:
            for event in decoder.feed(chunk):
                if event.event not in ("hello", "ping"):
                    found.append(event)
                    if len(found) == limit:
                        return found
        return found
    finally:
        response.close()
