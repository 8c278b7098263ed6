"""A site with `Live`, and around it what error trackers, tracers and others put in the place of start_response.

`python -m tests.handover.wrapped PORT` runs it on Werkzeug; gunicorn is given `tests.handover.wrapped:app`. The
request says what is to wrap it, in its header `X-Wrapper`.
"""

from __future__ import annotations

import functools
import gzip
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import flask

from afterload import text
from afterload.flask import Live

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

site = flask.Flask(__name__)
live = Live(site)
seen: list[str] = []
kept: list[Any] = []

Headers = list[tuple[str, str]]


@site.get("/stream/<name>")
def stream(name: str) -> Any:
    return live.page("none.html", name)


@site.post("/publish/<name>/<word>")
def publish(name: str, word: str) -> str:
    live.publish(name, text("#data", word))
    return "published"


@site.post("/finish/<name>")
def finish(name: str) -> str:
    live.hub.finish(name, "done")
    return "finished"


@site.get("/stats")
def stats() -> Any:
    following = live.viewers(flask.request.args.get("of", ""))
    return flask.jsonify(
        {"handovers": 0, "fallbacks": 0, **live.stats(), "seen": seen, "following": following}
    )


def note(status: str) -> None:
    seen.append(status)


# Those that are seen through. Each notes the status that it sees.


def observed(inner: StartResponse, span: object, status: str, headers: Headers, exc_info: Any = None) -> Any:
    note(status)
    return inner(status, headers, exc_info) if exc_info else inner(status, headers)


def partial(inner: StartResponse) -> Any:
    """As Sentry's."""
    return functools.partial(observed, inner, object())


def closure(inner: StartResponse) -> Any:
    """As OpenTelemetry's: it adds a header too, and asks which request this is."""

    def start(status: str, headers: Headers, *args: Any, **named: Any) -> Any:
        note(status)
        headers.append(("traceresponse", f"00-{flask.request.view_args['name']}-01"))  # type: ignore[index]
        return inner(status, headers, *args, **named)

    return start


class Observer:
    def __init__(self, inner: StartResponse) -> None:
        self.inner = inner

    def __call__(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        note(status)
        return self.inner(status, headers)


class Slotted(Observer):
    __slots__ = ("inner",)


class Transaction:
    """As New Relic's: a bound method of what is not callable itself."""

    def __init__(self, inner: StartResponse) -> None:
        self.outer_start_response = inner

    def start_response(self, status: str, headers: Headers, *args: Any) -> Any:
        note(status)
        return self.outer_start_response(status, headers, *args)


def default(inner: StartResponse) -> Any:
    def start(status: str, headers: Headers, exc_info: Any = None, *, inner: Any = inner) -> Any:
        note(status)
        return inner(status, headers)

    return start


def decorated(inner: StartResponse) -> Any:
    @functools.wraps(inner)
    def start(*args: Any) -> Any:
        note(args[0])
        return inner(*args)

    return start


def several(inner: StartResponse) -> Any:
    for wrap in (closure, partial, Slotted, lambda inner: Transaction(inner).start_response, partial):
        inner = wrap(inner)
    return inner


# Those that are not.


class Native(Observer):
    """What is called is an object written in C that does not show what it refers to."""

    @classmethod
    def proxy(cls, inner: StartResponse) -> Any:
        kept.append(cls(inner))
        return weakref.proxy(kept[-1])


def hidden(inner: StartResponse) -> Any:
    box = {"inner": inner}

    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        note(status)
        return box["inner"](status, headers)

    return start


def keeper(inner: StartResponse) -> Any:
    """Hides this request's, and keeps that of another one in the open."""
    start = hidden(inner)
    start.earlier = kept[-1] if kept else None
    kept.append(inner)
    return start


# Those that make something else of the response.


def raises(inner: StartResponse) -> Any:
    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        if exc_info or not status.startswith("200"):
            return inner(status, headers, exc_info)
        raise RuntimeError("the tracker is broken")

    return start


def raises_late(inner: StartResponse) -> Any:
    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        write = inner(status, headers, exc_info)
        if status.startswith("200"):
            raise RuntimeError("the tracker is broken")
        return write

    return start


def adds_no_header(inner: StartResponse) -> Any:
    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        return inner(status, [*headers, ("X-Bad", "a\r\nX-Injected: 1")])

    return start


def begins(inner: StartResponse) -> Any:
    """Has the head written before the body, as the `write` of WSGI does."""

    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        write = inner(status, headers)
        write(b": begun\n\n")
        return write

    return start


def own(wrap: Callable[[StartResponse], Any]) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    return lambda environ, start_response: site(environ, wrap(start_response))


def generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """As OpenTelemetry's for any WSGI app: the body is one of its own, and closed before the server is through."""
    body = site(environ, closure(start_response))
    try:
        yield from body
    finally:
        body.close()  # type: ignore[attr-defined]


def compressed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        note(status)
        return start_response(status, [*headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")])

    body = site(environ, start)
    return map(gzip.compress, body)


def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Starts the response when there are first bytes."""
    started: list[Any] = []

    def start(*args: Any) -> Any:
        started.append(args)
        return start_response  # in its sight, but not called

    start.inner = start_response  # type: ignore[attr-defined]
    body = site(environ, start)
    for data in body:
        if started:
            start_response(*started.pop())
        yield data


def blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A firewall: the app's answer is not sent."""
    site(environ, lambda *args: start_response("403 Forbidden", [("Content-Type", "text/plain")]))
    return [b"blocked"]


def replaces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    site(environ, lambda *args: start_response("200 OK", [("Content-Type", "text/html")]))
    return [b"closed for today"]


WRAPPERS: dict[str, Callable[..., Iterable[bytes]]] = {
    "none": site,
    "partial": own(partial),
    "closure": own(closure),
    "instance": own(Observer),
    "slots": own(Slotted),
    "method": own(lambda inner: Transaction(inner).start_response),
    "default": own(default),
    "decorated": own(decorated),
    "several": own(several),
    "generator": generator,
    "compressed": compressed,
    "native": own(Native.proxy),
    "hidden": own(hidden),
    "keeper": own(keeper),
    "late": late,
    "begins": own(begins),
    "raises": own(raises),
    "raises late": own(raises_late),
    "adds no header": own(adds_no_header),
    "blocks": blocks,
    "replaces": replaces,
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return WRAPPERS[environ.get("HTTP_X_WRAPPER", "none")](environ, start_response)


if __name__ == "__main__":
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
