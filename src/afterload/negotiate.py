"""From a request to what it wants: the page or one of its wires, and from where on.

One URL is both. The stream is endless, so it is given only to those who name it: ``*/*`` is what ``curl``,
crawlers and link previews send, and they would hang. Whatever a client sends has an answer: nothing raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import PositionError
from .position import Position

STREAM = "text/event-stream"
JSON = "application/json"
# A browser cannot set a header of a WebSocket's handshake, and what is a key to a loop is not to stand in a URL.
_IN_PROTOCOL = "afterload.position."
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
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
        wire: the page ("html"), its event stream ("sse"), a "websocket", or a "poll".
        position: how far the page has got, or None.
        bad_position: something was sent that is no position. The answer is a snapshot, never an error: any
            status but 200 stops a browser's EventSource for good.
        close: the page says that it will not come back.
        cross_site: a page of another site asks for the stream.
        wait: seconds that a poll waits for news at most; None if it does not say.
    """

    wire: Literal["html", "sse", "websocket", "poll"]
    position: Position | None = None
    bad_position: bool = False
    close: bool = False
    cross_site: bool = False
    wait: float | None = None


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
        Position(epoch='e1', offset=7, rendered=False, painted='')
        >>> negotiate("GET", {"accept": "*/*"}, {}).wire
        'html'
    """
    wire = _wire(headers, query) if method == "GET" else "html"
    if wire == "html":
        return Request("html")
    sent = _position(headers, query)
    position, bad = None, False
    try:
        position = Position.parse(sent)
    except PositionError:
        bad = True
    return Request(
        wire,
        position,
        bad,
        close=wire == "sse" and headers.get("al-close", "").strip(_BLANK) == "1",
        cross_site=_is_foreign(headers, wire),
        wait=_wait(headers.get("al-wait", "") or query.get("al-wait", "")) if wire == "poll" else None,
    )


def _wire(
    headers: Mapping[str, str], query: Mapping[str, str]
) -> Literal["html", "sse", "websocket", "poll"]:
    if "websocket" in [name.strip(_BLANK) for name in headers.get("upgrade", "").lower().split(",")]:
        return "websocket"
    accept = headers.get("accept", "")
    if _wants(STREAM, accept):
        return "sse"
    # Without a position it is JSON of the app's own that is asked for.
    return "poll" if _position(headers, query) and _wants(JSON, accept) else "html"


def _position(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    # Last-Event-ID is what was seen last; al-position, in the URL, is what the page was served with.
    offered = [name.strip(_BLANK) for name in headers.get("sec-websocket-protocol", "").split(",")]
    return (
        headers.get("last-event-id", "").strip(_BLANK)
        or next((name.removeprefix(_IN_PROTOCOL) for name in offered if name.startswith(_IN_PROTOCOL)), "")
        or query.get("al-position", "")
    )


def _is_foreign(headers: Mapping[str, str], wire: str) -> bool:
    """Whether a page asks that may not.

    What a page of another origin gets by a request it cannot read unless the app says so, but no browser keeps it from
    a WebSocket: there the origin has to be the page's own.
    """
    site = headers.get("sec-fetch-site", "").strip(_BLANK).lower()
    if wire != "websocket" or site in ("same-origin", "cross-site"):
        return site == "cross-site"
    origin = headers.get("origin", "").strip(_BLANK).lower()
    scheme, _, host = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme, "")
    return bool(origin) and host.removesuffix(port) != headers.get("host", "").lower().removesuffix(port)


def _wait(said: str) -> float | None:
    try:
        seconds = float(said)
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _wants(wanted: str, accept: str) -> bool:
    """Whether this type is named, and not less wanted than text/html.

    As https://www.rfc-editor.org/rfc/rfc9110#section-12.5.1 the most specific range counts for text/html: so
    ``text/event-stream;q=0.5, */*`` is for the page, and ``text/event-stream, */*`` for the stream.
    """
    if wanted not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for kind, weight in _ranges(accept):
        weights[kind] = max(weights.get(kind, 0.0), weight)
    html = next((weights[kind] for kind in (HTML, "text/*", "*/*") if kind in weights), 0.0)
    return weights.get(wanted, 0.0) > 0 and weights[wanted] >= html


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
