"""Werkzeug's development server (``flask run``, ``app.run()``), threaded or not.

Its ``start_response`` is a function made anew inside ``WSGIRequestHandler.run_wsgi``. The request handler,
and with it the socket and the buffered reader on top of it, is found in what that function closes over.
The server answers every request with ``Connection: close`` and has the connection registered nowhere while
the application runs, so its number may be swapped (swap.py).
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .claim import Claim, Refused

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["probe"]

_OWN = "WSGIRequestHandler.run_wsgi.<locals>.start_response"


def probe(environ: WSGIEnvironment, start_response: StartResponse) -> Claim | Refused | None:
    """Find the connection behind a request that Werkzeug's development server gave us.

    Returns:
        None if the server is not Werkzeug's.
    """
    if "werkzeug.socket" not in environ:
        return None
    serving = sys.modules.get("werkzeug.serving")
    if (
        serving is None
        or not isinstance(start_response, FunctionType)
        or start_response.__globals__ is not serving.__dict__
        or start_response.__qualname__ != _OWN
    ):
        name = getattr(start_response, "__qualname__", type(start_response).__qualname__)
        return Refused(
            f"start_response is {name}, not Werkzeug's own: a middleware outside Live wraps it, and would be "
            "passed by; wrap it inside Live instead",
            lasting=True,
        )
    version = str(environ.get("SERVER_SOFTWARE", "Werkzeug of unknown version")).replace("/", " ")
    try:
        return _claim(start_response, version)
    except (AttributeError, KeyError, ValueError) as error:
        return Refused(f"{version} is built in a way unknown to afterload: {error!r}", lasting=True)


def _claim(start_response: FunctionType, version: str) -> Claim | Refused:
    own = _closed_over(start_response)
    handler = _closed_over(own["write"])["self"]
    if own["headers_set"] is not None:
        return Refused("the response has been started already")
    if handler.server.ssl_context is not None:
        return Refused(
            "Werkzeug's server does TLS itself (ssl_context is set): let a proxy in front do it", lasting=True
        )
    if handler.server.multiprocess:
        return Refused(
            "Werkzeug's forking server ends the process after each request: use threads instead", lasting=True
        )
    if _read_ahead(handler):
        return Refused("the client sent bytes behind the request")
    kind = "threaded" if handler.server.multithread else "single-threaded"
    return Claim(handler.connection, f"{version} {kind}", start_response)


def _read_ahead(handler: Any) -> bytes:
    """What the server has read, or could read at once, beyond the request.

    ``peek`` on an empty buffer reads from the connection, so it must not be allowed to wait. What it finds
    stays in the server's own buffer: should the request be refused, nothing is lost.
    """
    connection = handler.connection
    before = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        found = handler.rfile.peek(1)
    except OSError:
        # A reset connection. The hub finds that out by itself, as it does with one that breaks later.
        found = b""
    finally:
        connection.settimeout(before)
    return bytes(found)


def _closed_over(function: Any) -> dict[str, Any]:
    return {
        name: cell.cell_contents
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    }
