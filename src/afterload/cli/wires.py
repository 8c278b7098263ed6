"""A page's wires as a client asks for them: one request each, and the blocks that come of it.

All three are an HTTP request of `http.client`, so what an answer means is said once, in `_asked`. A WebSocket is one
too, up to its 101; what comes behind is read by ``websockets``, without its input and output. What cannot go on is
raised: as what it means for who follows, or as it is (`OSError`, `HTTPException`) where a line has failed.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from importlib.metadata import version
from socket import socket
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..wire.sse import Decoder, Event

_LONGEST = 64 * 1024 * 1024  # bytes of an answer, or of a message, that is taken whole
_AGAIN = frozenset({408, 425, 429})  # and all from 500
_MOVED = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # in a path or query, as they are


class Over(Exception):  # noqa: N818 - an answer
    """Everything has ended, and the client has all of it."""


class Denied(Exception):  # noqa: N818
    """The application does not let follow."""


class Moved(Exception):  # noqa: N818
    """The answer is a redirect.

    Attributes:
        to: the URL.
    """

    def __init__(self, to: str) -> None:
        super().__init__(f"it redirects to {to}")
        self.to = to


class Cut(Exception):  # noqa: N818
    """The line is of no more use; nothing is known."""


class Unfit(Exception):  # noqa: N818
    """There is no such wire here."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    Attributes:
        event: its type; "message" for a plain string.
        id: the position after it, "" if it has none.
        data: its lines, as the JSON values that they are; of a message, its text.
        retry: milliseconds until the next try that it asks for, or None.
    """

    event: str
    id: str
    data: list[Any]
    retry: int | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a page is, and what goes along with each request.

    Attributes:
        scheme: "http" or "https".
        host: without brackets.
        port: its number.
        target: path and query.
        headers: what the user has given, by name.
    """

    scheme: str
    host: str
    port: int
    target: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> Address:
        """That of a URL; without a scheme it is http.

        Raises:
            ValueError: it is none; the message says why.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in _PORTS:
            raise ValueError(f"a URL begins with http:// or https://, not {parts.scheme}://")
        if not parts.hostname:
            raise ValueError("it has no host")
        host = parts.hostname
        if not host.isascii():
            host = host.encode("idna").decode()
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}", **headers}
        target = quote(parts.path or "/", _SAFE) + (f"?{quote(parts.query, _SAFE)}" if parts.query else "")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(parts.scheme, host, port, target, headers)

    @property
    def url(self) -> str:
        """As it is written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"

    def moved(self, url: str) -> Address:
        """Where a redirect leads, with the same headers.

        Raises:
            ValueError: that is no URL, or none for us.
        """
        return Address.of(urljoin(self.url, url), self.headers)

    def shares(self, other: Address) -> bool:
        """Whether what was given for this one is for the other too: it has the same origin, or is the same by https."""
        ours, theirs = ((it.scheme, it.host, it.port) for it in (self, other))
        return theirs == ours or (ours == ("http", self.host, 80) and theirs == ("https", self.host, 443))


@dataclass
class Line:
    """A connection for one request at a time.

    Attributes:
        timeout: seconds that it may be silent, from the next time that it is read.
    """

    address: Address
    timeout: float
    _sock: socket | None = None

    def wait(self, seconds: float) -> None:
        """From now on it may be silent for so long."""
        self.timeout = seconds
        if self._sock is not None:
            self._sock.settimeout(seconds)

    def reply(self, data: bytes) -> None:
        """Sends."""
        if data and self._sock is not None:
            self._sock.sendall(data)

    @contextmanager
    def asked(self, headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
        """The answer to a request, with whatever status."""
        to = self.address
        if to.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(
                to.host, to.port, timeout=self.timeout, context=ssl.create_default_context()
            )
        else:
            connection = HTTPConnection(to.host, to.port, timeout=self.timeout)
        agent = {"User-Agent": f"afterload/{version('afterload')}", "Cache-Control": "no-cache"}
        response = None
        try:
            connection.connect()
            # It is forgotten there where the answer ends with the connection.
            self._sock = connection.sock
            # As bytes: what is no latin-1 goes as UTF-8, as from a browser.
            sent = {name: value.encode() for name, value in {**agent, **to.headers, **headers}.items()}
            connection.request("GET", to.target, headers=sent)
            response = connection.getresponse()
            yield response
        finally:
            self._sock = None
            if response is not None:
                response.close()
            connection.close()


def stream(line: Line, position: str) -> Generator[Block, None, None]:
    """The event stream."""
    with line.asked({"Accept": "text/event-stream", **_from(position)}) as response:
        _expect(response, "text/event-stream")
        decoder = Decoder()
        while data := response.read1(65_536):
            yield from map(_block, decoder.feed(data))


def websocket(line: Line, position: str) -> Generator[Block, None, None]:
    """The WebSocket."""
    try:
        from websockets.client import ClientProtocol
        from websockets.datastructures import Headers
        from websockets.exceptions import InvalidHandshake
        from websockets.frames import Frame, Opcode
        from websockets.http11 import Response
        from websockets.protocol import OPEN
        from websockets.typing import Subprotocol
        from websockets.uri import WebSocketURI
    except ImportError:
        raise Unfit("a WebSocket needs the package websockets: pip install 'afterload[websocket]'") from None
    to = line.address
    path, _, query = to.target.partition("?")
    uri = WebSocketURI(to.scheme == "https", to.host, to.port, path, query)
    offered = ["afterload.v1", *([f"afterload.position.{position}"] if position != "0" else [])]
    opening = ClientProtocol(uri, subprotocols=[Subprotocol(name) for name in offered])
    headers = {name: value for name, value in opening.connect().headers.raw_items() if name.lower() != "host"}
    with line.asked(headers) as response:
        if response.status != 101:
            if response.status == 501 or response.status in (200, 400, 426):
                raise Unfit(f"there is no WebSocket here: the answer is {_said(response)}")
            _expect(response, "")
        found = Response(response.status, response.reason, Headers(response.getheaders()))
        try:
            opening.process_response(found)
        except InvalidHandshake as error:
            raise Unfit(f"there is no WebSocket here: {error}") from None
        protocol = ClientProtocol(uri, state=OPEN, max_size=_LONGEST)
        decoder = Decoder()
        while data := response.fp.read1(65_536):
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.CONT):
                    yield from map(_block, decoder.feed(bytes(event.data)))
            line.reply(b"".join(protocol.data_to_send()))
            if protocol.parser_exc is not None:
                raise Cut(f"what came was no WebSocket: {protocol.parser_exc}")
            if protocol.close_expected():
                return


def poll(line: Line, position: str, wait: float) -> Generator[Block, None, None]:
    """One poll: the blocks of what is new, none if nothing is within `wait` seconds."""
    headers = {"Accept": "application/json", "Last-Event-ID": position, "Al-Wait": f"{wait:g}"}
    with line.asked(headers) as response:
        if response.status == 204:
            return
        _expect(response, "application/json")
        data = _whole(response)
    try:
        found = json.loads(data)
    except ValueError:
        raise Cut("the answer to the poll is no JSON") from None
    # An app's own JSON, where a live page was thought to be.
    if not (isinstance(found, list) and found and _is_block(found[0]) and found[0][0] == "hello"):
        raise Denied("the answer is JSON of the app's own")
    for block in found:
        if not _is_block(block):
            raise Cut("a block that cannot be read")
        event, position, *lines = block
        retry = lines[0].get("retry") if isinstance(lines[0], dict) else None
        yield Block(event, position or "", lines, retry if isinstance(retry, int) else None)


def _from(position: str) -> dict[str, str]:
    return {"Last-Event-ID": position} if position != "0" else {}


def _expect(response: HTTPResponse, kind: str) -> None:
    """Raises what any other answer means (docs/wire.md#answers)."""
    status = response.status
    if status == 204:
        raise Over
    if status in _AGAIN or status >= 500:
        raise Cut(f"the answer is {_said(response)}")
    location = response.getheader("Location")
    if status in _MOVED and location:
        raise Moved(location)
    if status != 200:
        raise Denied(f"the answer is {_said(response)}")
    if response.headers.get_content_type() != kind:
        raise Denied(f"this is no live page, or one that wants a login: the answer is {_said(response)}")


def _said(response: HTTPResponse) -> str:
    kind = f", {response.headers.get_content_type()}" if response.status == 200 else ""
    return f"{response.status} {response.reason}{kind}".strip()


def _whole(response: HTTPResponse) -> bytes:
    data = response.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise Cut(f"the answer is longer than {_LONGEST:,} bytes")
    return data


def _block(event: Event) -> Block:
    if event.event == "message":
        return Block("message", event.id, [event.data], event.retry)
    try:
        lines = [json.loads(line) for line in event.data.split("\n")]
    except ValueError:
        raise Cut("a block that cannot be read") from None
    return Block(event.event, event.id, lines, event.retry)


def _is_block(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) > 2
        and isinstance(found[0], str)
        and (found[1] is None or isinstance(found[1], str))
    )
