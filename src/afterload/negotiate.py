"""From a request to what it wants: the page or its stream, and from where on.

One URL is both. The stream is endless, so it is given only to those who name it: ``*/*`` is what ``curl``,
crawlers and link previews send, and they would hang. Whatever a client sends has an answer: nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import PositionError
from .position import Position

STREAM = "text/event-stream"
HTML = "text/html"
_BLANK = " \t"  # OWS: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.3
# An element ends at a comma, a parameter at a semicolon, except in a quoted string (which may lack its end).
_QUOTED = r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)'
_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED})+', re.DOTALL)
_PARAMETER = re.compile(rf'(?:[^;"]|{_QUOTED})+', re.DOTALL)
# https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2 has at most three digits; more do no harm
_WEIGHT = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?", re.ASCII)


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
    r"""A header as WSGI gives it (bytes as latin-1), decoded as the UTF-8 that browsers send.

    What is no UTF-8 becomes U+FFFD; text that no WSGI server can have made comes back as it is.

    Example:
        >>> latin1_to_utf8("caf\xc3\xa9")
        'café'
    """
    try:
        return value.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return value


def negotiate(method: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Request:
    """What a request wants. Never raises: nonsense is a request for the page, or has no position.

    Args:
        method: of the request; all but GET want the page.
        headers: its headers, names in lower case, values as text.
        query: its query parameters.

    Example:
        >>> negotiate("GET", {"accept": "text/event-stream", "last-event-id": "e1.7"}, {}).position
        Position(epoch='e1', offset=7, rendered=False)
        >>> negotiate("GET", {"accept": "*/*"}, {}).wire
        'html'
    """
    if method != "GET" or not _wants_stream(headers.get("accept", "")):
        return Request("html")
    # Last-Event-ID is what was seen last; al-position, in the URL, is what the page was served with.
    sent = headers.get("last-event-id", "").strip(_BLANK) or query.get("al-position", "")
    position, bad = None, False
    try:
        position = Position.parse(sent)
    except PositionError:
        bad = True
    return Request(
        "sse",
        position,
        bad,
        close=headers.get("al-close", "").strip(_BLANK) == "1",
        cross_site=headers.get("sec-fetch-site", "").strip(_BLANK).lower() == "cross-site",
    )


def _wants_stream(accept: str) -> bool:
    """Whether text/event-stream is named, and not less wanted than text/html.

    As https://www.rfc-editor.org/rfc/rfc9110#section-12.5.1 the most specific range counts for text/html: so
    ``text/event-stream;q=0.5, */*`` is for the page, and ``text/event-stream, */*`` for the stream.
    """
    if STREAM not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for kind, weight in _ranges(accept):
        weights[kind] = max(weights.get(kind, 0.0), weight)
    html = next((weights[kind] for kind in (HTML, "text/*", "*/*") if kind in weights), 0.0)
    return weights.get(STREAM, 0.0) > 0 and weights[STREAM] >= html


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """The media ranges and their weights; one whose weight is malformed counts as not named."""
    for element in _ELEMENT.findall(accept):
        kind, *parameters = _PARAMETER.findall(element) or [""]
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip(_BLANK).lower() == "q":
                value = value.strip(_BLANK)
                weight = float(value) if _WEIGHT.fullmatch(value) else -1.0
                break
        if weight >= 0:
            yield kind.strip(_BLANK).lower(), weight
