"""What a server module answers when asked about a request: a claim, a refusal, or "not mine"."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Claim", "Headers", "Refused"]

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Refused:
    """The connection stays with the server; nothing about it has been changed.

    Attributes:
        reason: One sentence that says why, fit for a log.
        lasting: It is the server's doing, and so the same for its every request; otherwise this one's.
    """

    reason: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A server's connection, found and fit to be taken, but not taken yet.

    Attributes:
        connection: The server's own socket object.
        server: Name, version and kind of worker, for logs and counters.
        start: Tells the server which status and headers were answered (for its access log), and
            that it must close the connection afterwards instead of waiting for another request.
    """

    connection: socket.socket
    server: str
    start: Callable[[str, Headers], object]
