"""gunicorn's sync and gthread workers.

Everything is found through the ``start_response`` of the worker: a bound method of its
``gunicorn.http.wsgi.Response``, which has the socket, the request with its read-ahead, and the
configuration. It is looked for behind whatever wraps it (layers.py), and is the request's own only if it has
the request's own socket. What a response is started with is kept there, and not written before its body.

Both workers have the connection registered with no epoll while the application runs (gthread takes a
kept-alive one out of its poller before it gives it to a thread), so its number may be swapped (swap.py).
The gevent and tornado workers keep watchers on it, so they are refused.

The worker itself is in nothing that a request carries. It is found as the owner of the process's SIGTERM
handler, and asked whether it has been told to end.
"""

from __future__ import annotations

import os
import signal
import sys
from types import MethodType
from typing import TYPE_CHECKING, Any

from .claim import Claim, Headers, Refused
from .layers import layers, name_of
from .request_body import read_rest

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = [
    "is_forking",
    "is_loaded",
    "max_requests",
    "probe",
    "several",
    "spare_threads",
    "stopping",
    "worker",
]

# By the setting's text: its `worker_class` property loads the class, and runs its setup(), each time it is
# read. A subclass is not among these: it may do more with its connections than we know of.
_WORKERS = {
    "sync": "sync",
    "gunicorn.workers.sync.SyncWorker": "sync",
    "gthread": "gthread",
    "gunicorn.workers.gthread.ThreadWorker": "gthread",
}


def probe(environ: WSGIEnvironment, start_response: StartResponse) -> Claim | Refused | None:
    """Find the connection behind a request that a gunicorn worker gave us.

    Returns:
        None if the server is not gunicorn.
    """
    version = _version()
    try:
        response = _of_request(environ, start_response)
        if response is None:
            if "gunicorn.socket" not in environ:
                return None
            return Refused(
                f"start_response is {name_of(start_response)}, and gunicorn's own is not to be found behind it: "
                "wrap app.wsgi_app with it before Live(app) does",
                lasting=True,
            )
        if type(response) is not _class("gunicorn.http.wsgi", "Response"):
            return Refused(f"gunicorn {version} answers with {type(response).__qualname__}, not plain HTTP/1")
        return _claim(environ, response, version, start_response)
    except AttributeError as error:
        return Refused(f"gunicorn {version} is built in a way unknown to afterload: {error}", lasting=True)


def several(start_response: StartResponse | None) -> str | None:
    """Why viewers should not be held by this gunicorn worker, or None."""
    cfg = _settings(start_response)
    workers = _number(cfg, "workers")
    if workers > 1:
        return f"gunicorn runs {workers} workers"
    limit = _number(cfg, "max_requests")
    if limit > 0:
        return f"gunicorn ends its worker after {limit} requests (max_requests)"
    return None


def max_requests(start_response: StartResponse) -> int:
    """After how many requests this gunicorn worker ends; 0 if it does not for that."""
    return _number(_settings(start_response), "max_requests")


def worker() -> bool | None:
    """Whether this gunicorn worker is one of several, or one of those that end before long; None if it is no worker."""
    return None if _worker() is None else several(None) is not None


def is_loaded() -> bool:
    """Whether this gunicorn worker has loaded its app."""
    return getattr(_worker(), "wsgi", None) is not None


def is_forking() -> bool:
    """Whether this process is a fork of gunicorn's master, and so about to be a worker."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    base = _class("gunicorn.arbiter", "Arbiter")
    if base is None or not isinstance(owner, base):
        return False
    # Others replace the threads that would wait for it (gevent), or are none of ours.
    return getattr(getattr(owner, "cfg", None), "worker_class_str", "sync") in _WORKERS


def spare_threads(start_response: StartResponse) -> int | None:
    """How many threads a gunicorn worker of the threaded kind can do without and still answer; else None."""
    cfg = _settings(start_response)
    if cfg is None or _WORKERS.get(cfg.worker_class_str) != "gthread":
        return None
    return max(0, _number(cfg, "threads") - 1)


def stopping() -> bool | None:
    """Whether this gunicorn worker has been told to end; None if this process is none.

    It waits for the requests it has begun, and for no longer than `graceful_timeout`: a response that goes on
    for ever would hold up every restart for that long.
    """
    worker = _worker()
    return None if worker is None else not worker.alive


def _claim(
    environ: WSGIEnvironment, response: Any, version: str, start_response: StartResponse
) -> Claim | Refused:
    cfg, request = response.cfg, response.req
    worker = cfg.worker_class_str
    kind = _WORKERS.get(worker)
    if kind is None:
        return Refused(
            f"connections of gunicorn's worker class {worker!r} cannot be taken: use gthread (--threads 4)",
            lasting=True,
        )
    if cfg.is_ssl:
        return Refused("gunicorn does TLS itself (certfile is set): let a proxy in front do it", lasting=True)
    protocol = getattr(cfg, "protocol", "http")  # a setting since gunicorn 25
    if protocol != "http":
        return Refused(f"gunicorn speaks {protocol!r} to the proxy in front of it, not HTTP", lasting=True)
    if response.status is not None or response.headers or response.headers_sent:
        return Refused("the response has been started already")
    refused = read_rest(environ, response.sock)
    if refused is not None:
        return refused
    if request.unreader.buf.getvalue():
        return Refused("the client sent bytes behind the request")

    def head() -> tuple[str, Headers] | Refused:
        if response.headers_sent:
            return Refused("the response is on its way already", lasting=True)
        if response.status is None:
            return Refused(
                f"start_response is {name_of(start_response)}, which did not call gunicorn's own when it was "
                "called: wrap app.wsgi_app with it before Live(app) does",
                lasting=True,
            )
        return response.status, list(response.headers)

    # Without force_close() gthread would keep the dummy for another request; gunicorn ignores a "Connection"
    # header of the application's.
    return Claim(response.sock, f"gunicorn {version} {kind}", head, response.force_close)


def _of_request(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """The response object of this request, if its method is `start_response` or behind it."""
    found = None
    for layer in layers(start_response):
        response = _response(layer)
        if response is None or response.sock is not environ.get("gunicorn.socket"):
            continue
        found = response
        if response.status is None:
            break
        # One of an earlier request on the same connection, that somebody keeps? Then ours is still to come.
    return found


def _response(start_response: object) -> Any:
    """The response object of gunicorn, if `start_response` is that object's own method."""
    base = _class("gunicorn.http.wsgi", "Response")
    if base is None or type(start_response) is not MethodType:
        return None
    own = start_response.__func__ is base.start_response and issubclass(type(start_response.__self__), base)
    return start_response.__self__ if own else None


def _worker() -> Any:
    """The worker that this process is, or None."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    base = _class("gunicorn.workers.base", "Worker")
    if base is None or not isinstance(owner, base):
        return None
    # What a worker forks inherits its handlers, and is none.
    return owner if getattr(owner, "ppid", os.getppid()) == os.getppid() else None


def _settings(start_response: StartResponse | None) -> Any:
    """The configuration: from the response where it shows, else from the worker."""
    return getattr(_response(start_response) or _worker(), "cfg", None)


def _class(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _version() -> str:
    return str(getattr(sys.modules.get("gunicorn"), "__version__", "of unknown version"))


def _number(cfg: object, name: str) -> int:
    value = getattr(cfg, name, 0)
    return value if isinstance(value, int) else 0
