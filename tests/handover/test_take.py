"""What can be said of a request without a server: why it is refused, and what a set-up cannot do."""

from __future__ import annotations

import functools
import io
import signal
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gunicorn.arbiter
import gunicorn.http.wsgi
import gunicorn.workers.base
import pytest

from afterload import handover
from afterload.handover import Refused

GET: dict[str, Any] = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": "waitress/3.0",
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
}


def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    raise AssertionError("a refused request is not answered by the handover")


def refused(environ: dict[str, Any]) -> Refused:
    found = handover.find(environ, start_response)
    assert isinstance(found, Refused)
    return found


def test_an_unknown_server_is_refused_for_good_and_by_name():
    assert refused(GET) == Refused(
        "waitress/3.0 is neither gunicorn nor Werkzeug's development server", lasting=True
    )
    nameless = {key: value for key, value in GET.items() if key != "SERVER_SOFTWARE"}
    assert refused(nameless).reason.startswith("this server (it gives no SERVER_SOFTWARE) is neither")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"REQUEST_METHOD": "HEAD"}, "the answer to 'HEAD' has no body"),
        ({"REQUEST_METHOD": "CONNECT"}, "the answer to 'CONNECT' has no body"),
        ({"SERVER_PROTOCOL": "HTTP/2"}, "the request came by 'HTTP/2', not HTTP/1"),
        ({"SERVER_PROTOCOL": "HTTP/0.9"}, "the request came by 'HTTP/0.9', not HTTP/1"),
    ],
)
def test_a_request_whose_answer_is_none_of_http_1_with_a_body_is_refused_this_time(change, reason):
    assert refused(GET | change) == Refused(reason, lasting=False)


@pytest.mark.parametrize("value", ["off", "OFF", " 0 ", "no", "false"])
def test_it_can_be_switched_off_by_the_environment(monkeypatch, value):
    monkeypatch.setenv("AFTERLOAD_HANDOVER", value)
    assert refused(GET) == Refused("handover is switched off (AFTERLOAD_HANDOVER)", lasting=True)


@pytest.mark.parametrize(
    ("change", "off"), [({"CONTENT_LENGTH": "4"}, "off"), ({"CONTENT_LENGTH": "0"}, ""), ({}, "")]
)
def test_the_input_of_a_request_is_its_servers_where_nothing_is_to_be_counted(monkeypatch, change, off):
    monkeypatch.setenv("AFTERLOAD_HANDOVER", off)
    source = io.BytesIO(b"body")
    environ = {**GET, "gunicorn.socket": None, "wsgi.input": source, **change}
    handover.watch(environ)
    assert environ["wsgi.input"] is source


def test_elsewhere_than_on_linux_it_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert refused(GET).reason == "handover is tried on Linux only, and this is darwin"


def test_a_server_that_says_that_it_runs_several_processes_is_believed():
    assert handover.several(GET, start_response) is None
    found = handover.several(GET | {"wsgi.multiprocess": True}, start_response)
    assert found == "waitress/3.0 runs several processes (wsgi.multiprocess is true)"
    nameless = {"wsgi.multiprocess": True}
    assert handover.several(nameless, start_response) == found.replace("waitress/3.0", "the server")


# Gunicorn's own objects, without its processes; tests/handover/test_servers.py has those.


class Sync(gunicorn.workers.base.Worker):  # type: ignore[misc]
    def __init__(self, **settings: Any) -> None:
        self.alive = True
        self.cfg = SimpleNamespace(worker_class_str="gthread", workers=1, max_requests=0, threads=4)
        vars(self.cfg).update(settings)


@pytest.fixture
def worker() -> Iterator[Any]:
    """Makes this process look like a gunicorn worker."""
    before = signal.getsignal(signal.SIGTERM)

    def make(**settings: Any) -> Sync:
        made = Sync(**settings)
        signal.signal(signal.SIGTERM, made.handle_exit)
        return made

    yield make
    signal.signal(signal.SIGTERM, before)


def test_a_worker_that_is_told_to_end_says_so(worker):
    assert not handover.stopping()
    made = worker()
    assert not handover.stopping()
    made.handle_exit(signal.SIGTERM, None)
    assert handover.stopping()


def test_another_handler_of_sigterm_is_no_worker(worker):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert not handover.stopping()


@pytest.mark.parametrize(("threads", "spare"), [(4, 3), (2, 1), (1, 0)])
def test_the_last_thread_of_a_gunicorn_worker_is_not_to_spare(worker, threads, spare):
    worker(threads=threads)
    assert handover.spare_threads(GET, start_response) == spare


def test_a_server_that_does_not_say_how_many_threads_it_has_is_not_asked():
    assert handover.spare_threads(GET, start_response) is None
    assert handover.spare_threads(GET | {"wsgi.multithread": False}, start_response) == 0


def test_gunicorns_other_workers_have_no_threads_to_count(worker):
    worker(worker_class_str="gevent", threads=1)
    assert handover.spare_threads(GET, start_response) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"workers": 3}, "gunicorn runs 3 workers"),
        ({"max_requests": 500}, "gunicorn ends its worker after 500 requests (max_requests)"),
    ],
)
def test_gunicorns_workers_that_are_several_or_end_soon_are_seen_behind_a_middleware_too(
    worker, settings, reason
):
    worker(**settings)
    assert handover.several(GET, start_response) == reason
    assert handover.max_requests(start_response) == settings.get("max_requests", 0)


@pytest.mark.parametrize(
    ("settings", "several"), [({}, False), ({"workers": 2}, True), ({"max_requests": 50}, True)]
)
def test_a_gunicorn_worker_is_known_before_its_first_request(worker, settings, several):
    assert handover.worker() is None
    worker(**settings)
    assert handover.worker() is several


def test_a_gunicorn_worker_that_has_yet_to_load_its_app_says_so(worker):
    assert not handover.is_loaded()
    made = worker()
    assert not handover.is_loaded()
    made.wsgi = start_response
    assert handover.is_loaded()


def test_a_fork_of_gunicorns_master_is_about_to_be_a_worker(worker):
    assert not handover.is_forking()
    arbiter = object.__new__(gunicorn.arbiter.Arbiter)
    signal.signal(signal.SIGTERM, arbiter.signal)
    assert handover.is_forking()
    assert handover.worker() is None
    worker()
    assert not handover.is_forking()


def test_a_gunicorn_built_otherwise_is_refused_and_does_not_fail(monkeypatch):
    request = SimpleNamespace(should_close=lambda: True)  # without its unreader
    cfg = SimpleNamespace(worker_class_str="sync", is_ssl=False, workers=1, max_requests=0)
    with socket.socket() as sock:
        made = gunicorn.http.wsgi.Response(request, sock, cfg)
        found = handover.find({**GET, "gunicorn.socket": sock}, made.start_response)
    assert isinstance(found, Refused)
    assert found.lasting
    assert "built in a way unknown to afterload" in found.reason


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    made = [socket.socket() for _ in range(2)]
    yield made
    for sock in made:
        sock.close()


def response(sock: socket.socket, status: str | None = None) -> Any:
    """As gunicorn makes one for each request."""
    unreader = SimpleNamespace(buf=io.BytesIO())
    request = SimpleNamespace(should_close=lambda: False, unreader=unreader, method="GET", version=(1, 1))
    cfg = SimpleNamespace(worker_class_str="gthread", is_ssl=False, workers=1, max_requests=0, threads=4)
    made = gunicorn.http.wsgi.Response(request, sock, cfg)
    if status is not None:
        made.start_response(status, [("X-From", "earlier")])
    return made


def test_the_response_of_another_request_that_a_wrapper_keeps_is_not_taken_for_this_ones(sockets):
    this, other = sockets
    foreign = functools.partial(start_response, response(other).start_response)
    found = handover.find({**GET, "gunicorn.socket": this}, foreign)
    assert isinstance(found, Refused)
    assert "gunicorn's own is not to be found behind it" in found.reason
    # Nor is it taken as the server's own, given as it is.
    assert isinstance(
        handover.find({**GET, "gunicorn.socket": this}, response(other).start_response), Refused
    )


def test_the_response_of_an_earlier_request_on_the_same_connection_is_passed_by(sockets):
    earlier, now = response(sockets[0], "404 Not Found"), response(sockets[0])
    both = functools.partial(start_response, earlier.start_response, now.start_response)
    found = handover.find({**GET, "gunicorn.socket": sockets[0]}, both)
    assert isinstance(found, handover.Claim)
    now.start_response("200 OK", [("X-From", "now")])
    assert found.head() == ("200 OK", [("X-From", "now")])
    found.close_after()
    assert (now.must_close, earlier.must_close) == (True, False)


def test_a_taken_connection_is_not_kept_for_another_request():
    """Gunicorn's threaded worker would put the dummy among its idle connections."""
    server, client = socket.socketpair()
    with server, client:
        made = response(server)
        found = handover.find({**GET, "gunicorn.socket": server}, made.start_response)
        assert isinstance(found, handover.Claim)
        assert found.head() == Refused(
            "start_response is a method of a gunicorn.http.wsgi.Response, which did not call gunicorn's own when "
            "it was called: wrap app.wsgi_app with it before Live(app) does",
            lasting=True,
        )
        made.start_response("200 OK", [])
        assert not made.should_close()
        taken = handover.take(found)
        assert isinstance(taken, handover.Taken)
        assert made.should_close()
        taken.close()


def test_a_response_that_was_started_already_is_refused(sockets):
    started = response(sockets[0], "200 OK").start_response
    found = handover.find({**GET, "gunicorn.socket": sockets[0]}, functools.partial(start_response, started))
    assert found == Refused("the response has been started already")


def test_gunicorn_speaking_http_2_is_refused():
    class HTTP2Response(gunicorn.http.wsgi.Response):  # type: ignore[misc]
        pass

    made = HTTP2Response(SimpleNamespace(), None, SimpleNamespace())
    found = handover.find({**GET, "gunicorn.socket": None}, made.start_response)
    assert isinstance(found, Refused)
    assert "answers with " in found.reason
    assert "not plain HTTP/1" in found.reason
