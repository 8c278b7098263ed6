"""From a request to what it wants: the page or its stream, and from where on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import PositionError
from .position import Position

STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """What a request wants.

    Attributes:
        wire: the page ("html") or its event stream ("sse").
        position: how far the page has got, or None.
        bad_position: something was sent that is no position. The answer is a snapshot, never an error: any
            status but 200 stops a browser's EventSource for good.
        close: the page says that it will not come back.
        cross_site: a page of another site asks for the stream.
    """

    wire: Literal["html", "sse"]
    position: Position | None = None
    bad_position: bool = False
    close: bool = False
    cross_site: bool = False


def latin1_to_utf8(value: str) -> str:
    """A header as WSGI gives it (bytes as latin-1), decoded as the UTF-8 that browsers send."""
    try:
        return value.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return value


def negotiate(method: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Request:
    """What a request wants. Never raises: nonsense is a plain request for the page, or has no position.

    Args:
        method: of the request.
        headers: its headers, names in lower case, values as text.
        query: its query parameters.
    """
    if method != "GET" or not _wants_stream(headers.get("accept", "")):
        return Request("html")
    # Last-Event-ID is what was seen last; al-position what the page was served with.
    text = headers.get("last-event-id") or query.get("al-position") or ""
    position, bad = None, False
    try:
        position = Position.parse(text.strip())
    except PositionError:
        bad = True
    return Request(
        "sse",
        position,
        bad,
        close=headers.get("al-close", "").strip() == "1",
        cross_site=headers.get("sec-fetch-site", "").strip().lower() == "cross-site",
    )


def _wants_stream(accept: str) -> bool:
    """Whether text/event-stream is named, and not less wanted than text/html.

    ``*/*`` is no wish for an endless response.
    """
    stream, html = 0.0, 0.0
    for part in accept.split(","):
        kind, *parameters = part.split(";")
        kind = kind.strip().lower()
        if kind == STREAM:
            stream = max(stream, _quality(parameters))
        elif kind == "text/html":
            html = max(html, _quality(parameters))
    return stream > 0 and stream >= html


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value.strip())
            except ValueError:
                return 0.0
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0
