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
        head: The status and headers that have arrived at the server, after everything that wraps
            ``start_response``. To be called once the response was started; `Refused` if they have not
            arrived, or are on their way to the client already.
        close_after: Tells the server that it must close the connection when it is through with this
            request, instead of waiting for another one.
    """

    connection: socket.socket
    server: str
    head: Callable[[], tuple[str, Headers] | Refused]
    close_after: Callable[[], object]
