"""A site by hand: answers one request after the other, each as it is told, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

PATIENCE = 20.0
#: What a site does with a request: it is given the connection and the request's headers.
Answer = Callable[[socket.socket, dict[str, str]], None]


class Site:
    """Serves its answers in their order; who asks once more is not accepted any longer.

    Attributes:
        asked: of each request its headers by lower name, and the first line as "".
    """

    def __init__(
        self, *answers: bytes | Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.asked: list[dict[str, str]] = []
        self.errors: list[BaseException] = []
        self._answers = answers
        self._tls = tls
        self._host = host
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}/page"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._listener.close()
            return
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"asked {len(self.asked)} times, and not {len(self._answers)}"
        if self.errors:
            raise self.errors[0]

    def _serve(self) -> None:
        with self._listener:
            for answer in self._answers:
                try:
                    connection, _ = self._listener.accept()
                    connection.settimeout(PATIENCE)
                    with (
                        connection
                        if self._tls is None
                        else self._tls.wrap_socket(connection, True) as wrapped
                    ):
                        self.asked.append(_request(wrapped))
                        if isinstance(answer, bytes):
                            wrapped.sendall(answer)
                        else:
                            answer(wrapped, self.asked[-1])
                except BaseException as error:  # raised where the test is
                    self.errors.append(error)
                    return


def _request(connection: socket.socket) -> dict[str, str]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        assert more, f"cut: {data!r}"
        data += more
    first, *lines = data.decode().rstrip("\r\n").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return {"": first, **{name.lower(): value for name, value in pairs}}


def answer(status: str = "200 OK", body: str = "", **headers: str) -> bytes:
    """A whole answer, that ends with the connection."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", body]).encode()


def stream(*blocks: str) -> bytes:
    """An event stream, that is cut behind its blocks."""
    return answer(body="".join(blocks), Content_Type="text/event-stream; charset=utf-8")


def block(event: str = "", *data: Any, id: str = "", retry: int | None = None) -> str:
    """A block of an event stream; of a plain string the data is its text."""
    lines = [f"event: {event}"] if event else []
    lines += [f"id: {id}"] if id else []
    lines += [f"retry: {retry}"] if retry is not None else []
    for one in data:
        lines += [f"data: {line}" for line in (json.dumps(one) if event else one).split("\n")]
    return "\n".join([*lines, "", ""])


def hello(*channels: str, heartbeat: float = 20.0, id: str = "0", **more: Any) -> str:
    """The first block."""
    said = {"v": 1, "resumed": False, "heartbeat": heartbeat, "channels": channels or ("a",), **more}
    return block("hello", said, id=id, retry=500)


def patch(
    *patches: list[Any], channel: str = "a", seq: int = 1, id: str = "e.1", since: int | None = None
) -> str:
    """A block of one line."""
    return block("patch", [channel, seq, [*patches], *([] if since is None else [since])], id=id)


def end(status: str = "done", message: str = "", *, channel: str = "a", id: str = "e.9") -> str:
    return block("end", {"channel": channel, "status": status, "message": message}, id=id)


def json_answer(*blocks: Any) -> bytes:
    """The answer to a poll."""
    return answer(body=json.dumps(blocks), Content_Type="application/json")


def held(data: bytes) -> Answer:
    """The connection stays open behind these bytes, until the other side lets go."""

    def send(connection: socket.socket, asked: dict[str, str]) -> None:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while connection.recv(65_536):
                pass

    return send
