"""Werkzeug's development server (``flask run``, ``app.run()``), threaded or not.

Its ``start_response`` is a function made anew inside ``WSGIRequestHandler.run_wsgi``, and is looked for behind
whatever wraps it (layers.py). The request handler, and with it the socket and the buffered reader on top of it,
is found in what that function closes over; so is what the response was started with, which is not written
before its body.

The server answers every request with ``Connection: close`` and has the connection registered nowhere while
the application runs, so its number may be swapped (swap.py).
"""

from __future__ import annotations

import sys
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .claim import Claim, Headers, Refused
from .layers import layers, name_of
from .request_body import read_rest

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
    version = str(environ.get("SERVER_SOFTWARE", "Werkzeug of unknown version")).replace("/", " ")
    try:
        own = next(filter(partial(_is_own, environ), layers(start_response)), None)
        if own is None:
            return Refused(
                f"start_response is {name_of(start_response)}, and Werkzeug's own is not to be found behind it: "
                "wrap app.wsgi_app with it before Live(app) does",
                lasting=True,
            )
        return _claim(environ, own, version, start_response)
    except (AttributeError, KeyError, ValueError) as error:
        return Refused(f"{version} is built in a way unknown to afterload: {error!r}", lasting=True)


def _is_own(environ: WSGIEnvironment, layer: Any) -> bool:
    """Whether this is the server's ``start_response``, for this very request."""
    serving = sys.modules.get("werkzeug.serving")
    return (
        serving is not None
        and type(layer) is FunctionType
        and layer.__globals__ is serving.__dict__
        and layer.__qualname__ == _OWN
        and _handler(layer).connection is environ["werkzeug.socket"]
    )


def _handler(own: Any) -> Any:
    return _closed_over(_closed_over(own)["write"])["self"]


def _claim(
    environ: WSGIEnvironment, own: Any, version: str, start_response: StartResponse
) -> Claim | Refused:
    known = _closed_over(own)
    if (known["status_set"], known["headers_set"], known["headers_sent"]) != (None, None, None):
        return Refused("the response has been started already")
    handler = _handler(own)
    if handler.server.ssl_context is not None:
        return Refused(
            "Werkzeug's server does TLS itself (ssl_context is set): let a proxy in front do it", lasting=True
        )
    if handler.server.multiprocess:
        return Refused(
            "Werkzeug's forking server ends the process after each request: use threads instead", lasting=True
        )
    refused = read_rest(environ, handler.connection)
    if refused is not None:
        return refused
    if _read_ahead(handler):
        return Refused("the client sent bytes behind the request")

    def head() -> tuple[str, Headers] | Refused:
        now = _closed_over(own)
        if now["headers_sent"] is not None:
            return Refused("the response is on its way already", lasting=True)
        if now["status_set"] is None or now["headers_set"] is None:
            return Refused(
                f"start_response is {name_of(start_response)}, which did not call Werkzeug's own when it was "
                "called: wrap app.wsgi_app with it before Live(app) does",
                lasting=True,
            )
        return now["status_set"], list(now["headers_set"])

    kind = "threaded" if handler.server.multithread else "single-threaded"
    # It closes each connection, and need not be told to.
    return Claim(handler.connection, f"{version} {kind}", head, lambda: None)


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
