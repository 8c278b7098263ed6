"""A body of what the hub writes, for servers whose connections cannot be taken."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from afterload.handover import Body, Fallback


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's connection, and its client."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start it in a thread; the result's function waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(20)
        assert results, "still waiting"
        return results[0]

    return result


@pytest.mark.parametrize("shown", [True, False])
def test_the_body_is_what_the_hub_writes_until_the_hub_ends(connection, shown):
    environ = {"werkzeug.socket": connection[0]} if shown else {}
    pair = Fallback.open(environ)
    with pair.hub_end as hub:
        whole = in_thread(lambda: b"".join(pair.body))
        for text in (b"one.", b"two.", b"three."):
            hub.send(text)
        hub.shutdown(socket.SHUT_WR)
        assert whole() == b"one.two.three."
        assert hub.recv(1) == b""  # and the hub learns that it has arrived
    assert list(pair.body) == []


def test_the_hubs_end_is_what_the_hub_expects_of_a_connection():
    socket.setdefaulttimeout(5)
    try:
        pair = Fallback.open()
    finally:
        socket.setdefaulttimeout(None)
    with pair.hub_end:
        assert pair.hub_end.gettimeout() == 0
        assert not pair.hub_end.get_inheritable()
        pair.body.close()


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_a_client_that_has_gone_ends_the_body_though_the_hub_is_silent(connection, key):
    server, client = connection
    pair = Fallback.open({key: server})
    with pair.hub_end as hub:
        rest = in_thread(lambda: list(pair.body))
        client.shutdown(socket.SHUT_WR)  # its FIN; what it may still receive is nothing to it
        assert rest() == []
        assert hub.recv(1) == b""


def test_what_a_client_sends_behind_its_request_does_not_end_the_body(connection):
    server, client = connection
    pair = Fallback.open({"werkzeug.socket": server})
    with pair.hub_end as hub:
        client.send(b"a key update, or nonsense")
        hub.send(b"one.")
        assert next(pair.body) == b"one."
        pair.body.close()


def test_a_server_that_stops_iterating_is_a_plain_end_for_the_hub_even_with_bytes_unread():
    pair = Fallback.open()
    with pair.hub_end as hub:
        hub.send(b"never read")
        pair.body.close()
        pair.body.close()
        assert hub.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            hub.send(b"too late")
        assert list(pair.body) == []


def test_a_body_that_is_forgotten_costs_nothing():
    before = descriptors()
    pair = Fallback.open()
    hub = pair.hub_end
    assert descriptors() == before + 2
    del pair
    assert descriptors() == before + 1
    assert hub.recv(1) == b""
    hub.close()


def test_the_hub_is_stopped_when_nobody_reads_and_goes_on_when_somebody_does():
    pair = Fallback.open()
    with pair.hub_end as hub:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 10_000_000:
                sent += hub.send(b"x" * 4096)
        assert sent < 10_000_000  # the bound is the kernel's
        received = 0
        while received < sent:
            received += len(next(pair.body))
        assert received == sent
        assert hub.send(b"more") == 4
        pair.body.close()


@pytest.mark.parametrize("shown", [True, False])
def test_a_server_that_is_told_to_end_gets_what_is_there_and_then_the_end(connection, shown):
    told = threading.Event()
    environ = {"gunicorn.socket": connection[0]} if shown else {}
    pair = Fallback.open(environ, told.is_set)
    with pair.hub_end as hub:
        hub.send(b"one.")
        assert next(pair.body) == b"one."
        hub.send(b"two.")
        told.set()
        assert list(pair.body) == [b"two."]
        assert hub.recv(1) == b""


def test_a_waiting_body_learns_that_the_server_is_told_to_end():
    told = threading.Event()
    pair = Fallback.open({}, told.is_set)
    with pair.hub_end as hub:
        rest = in_thread(lambda: list(pair.body))
        told.set()
        assert rest() == []
        assert hub.recv(1) == b""


def test_without_a_descriptor_it_is_an_error_and_nothing_is_left_open(monkeypatch):
    def none_left() -> None:
        raise OSError(24, "Too many open files")

    before = descriptors()
    monkeypatch.setattr(socket, "socketpair", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        Fallback.open()
    assert descriptors() <= before


FORK = """
import os, sys
from afterload.handover import Fallback

pair = Fallback.open()
end = pair.body._end.fileno()
read, write = os.pipe()
child = os.fork()
if not child:
    try:
        os.fstat(end)
        os._exit(1)  # it has a copy, and would keep it
    except OSError:
        os.read(read, 1)
        os._exit(0)
pair.hub_end.send(b"one.")
assert next(pair.body) == b"one."  # the fork has not ended the parent's stream
pair.body.close()
assert pair.hub_end.recv(1) == b""  # an end although the child lives
os.write(write, b".")
assert os.waitpid(child, 0)[1] == 0
print("fine")
"""


def test_a_forked_child_keeps_no_stream_of_its_parent_open():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


ELSEWHERE = """
import errno, os, select, signal, socket, struct, sys

# What is not there: first on Windows, then on macOS.
missing = {
    "win32": [(socket, "MSG_DONTWAIT"), (socket, "MSG_NOSIGNAL"), (socket, "AF_UNIX"), (select, "POLLRDHUP"),
              (select, "poll"), (select, "epoll"), (os, "register_at_fork"), (os, "fork"), (os, "dup2")],
    "darwin": [(socket, "MSG_NOSIGNAL"), (select, "POLLRDHUP"), (select, "epoll")],
}
import afterload.errors, afterload.handover, afterload.wsgi  # so that what they need is there

ours = [name for name in sys.modules if name.startswith("afterload.handover") or name == "afterload.wsgi"]
for name in ours:
    del sys.modules[name]
pair = socket.socketpair
for module, name in missing[sys.argv[1]]:
    delattr(module, name)
if sys.argv[1] == "win32":
    sys.modules["fcntl"] = sys.modules["resource"] = None  # to import them is an error
socket.socketpair = lambda: pair(1)  # its default family is the one that is not there
sys.platform = sys.argv[1]

from afterload import handover, wsgi

server, client = socket.socketpair()
environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "werkzeug.socket": server,
           "wsgi.multithread": True}
refused = handover.find(environ, print)
assert refused.reason.startswith("handover is tried on Linux only"), refused
assert handover.several(environ, print) is None
assert handover.max_requests(print) == 0
assert handover.worker() is None
assert not handover.is_loaded()
assert not handover.is_forking()
assert handover.spare_threads(environ, print) is None
assert not handover.stopping()

fallback = handover.Fallback.open(environ, handover.stopping)
fallback.hub_end.send(b"one.")
assert next(fallback.body) == b"one."
fallback.hub_end.send(b"never read")
fallback.body.close()
fallback.body.close()
assert fallback.hub_end.recv(1) == b""
fallback.hub_end.close()

fallback = handover.Fallback.open(environ)
fallback.hub_end.close()
assert list(fallback.body) == []
print("fine")
"""


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere_than_on_linux_everything_goes_through_the_server(platform):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, platform],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_socket_of_gevents_is_not_waited_for(monkeypatch, connection):
    """poll() on it would stop every greenlet of the process."""
    monkeypatch.setattr(socket.socket, "__module__", "gevent._socket3")
    pair = Fallback.open({"gunicorn.socket": connection[0]})
    with pair.hub_end:
        assert isinstance(pair.body, Body)
        assert pair.body._poll is None
        pair.body.close()
