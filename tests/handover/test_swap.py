"""The exchange of a socket under its owner's feet: whole or not at all, and the owner notices nothing."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from afterload.handover.swap import Sink, swap

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there is nothing to swap with")


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's connection, and its client."""
    if request.param == "unix":
        server, client = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server = listener.accept()[0]
    client.settimeout(10)
    with server, client:
        yield server, client


def test_what_the_owner_does_afterwards_does_not_reach_the_client(pair):
    server, client = pair
    server.sendall(b"before.")
    taken, sink = swap(server)
    with taken, contextlib.closing(sink):
        server.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        taken.send(b"ours.")
        server.shutdown(socket.SHUT_WR)
        assert server.recv(4096) == b""  # its drain ends at once
        server.close()
        taken.send(b"still ours.")
        taken.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(4096):
            received += data
        assert received == b"before.ours.still ours."
        client.sendall(b"and back")
        assert taken.recv(100) == b"and back"


def test_the_taken_socket_is_fit_for_the_hub(pair):
    server, client = pair
    taken, sink = swap(server)
    with taken, contextlib.closing(sink):
        assert taken.gettimeout() == 0
        assert not os.get_blocking(taken.fileno())
        assert not taken.get_inheritable()
        assert (taken.family, taken.type) == (server.family, server.type)
        if taken.family == socket.AF_INET:
            assert taken.getpeername() == client.getsockname()
        # The server's own descriptor is as it was: blocking, and not inherited.
        assert os.get_blocking(server.fileno())
        assert not server.get_inheritable()


def test_viewers_leave_the_low_numbers_to_code_that_uses_select(pair):
    """Else a database driver in the app that waits by select() fails once some 1,000 pages are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > 1100, "this machine allows too few descriptors to tell"
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    try:
        taken, sink = swap(pair[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with taken, contextlib.closing(sink):
        assert taken.fileno() >= 1024
        assert not taken.get_inheritable()


def test_under_a_low_limit_a_quarter_of_the_descriptors_is_left_to_the_server(pair):
    """Gunicorn's threaded worker ends when there is none for a connection that it accepts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        while fillers[-1] < 148:
            fillers.append(os.dup(0))
        taken, sink = swap(pair[0])
        with taken, contextlib.closing(sink):
            assert taken.fileno() == 149
            with pytest.raises(OSError, match="the rest of 200 descriptors") as caught:
                swap(pair[0])
            assert caught.value.errno == errno.EMFILE
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_without_a_descriptor_nothing_is_changed(pair, spare):
    """The whole takes three, of which two stay: it fails at the first, at the pair, and between."""
    server, client = pair
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for _ in range(spare):
            os.close(fillers.pop())
        with pytest.raises(OSError) as caught:
            swap(server)
        assert caught.value.errno == errno.EMFILE
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() <= before
    server.sendall(b"an ordinary answer")
    assert client.recv(100) == b"an ordinary answer"


def test_a_connection_that_is_closed_already_is_an_error(pair):
    pair[0].close()
    with pytest.raises(OSError, match="closed already"):
        swap(pair[0])


def test_an_error_page_larger_than_the_dummy_fails_and_does_not_wait_for_ever(pair):
    taken, sink = swap(pair[0])
    with taken, contextlib.closing(sink):
        began = time.monotonic()
        with pytest.raises(BlockingIOError):
            pair[0].sendall(b"x" * 10_000_000)
        assert time.monotonic() - began >= 0.5  # it is patience, not a refusal


def test_a_server_that_writes_after_the_sink_is_closed_gets_an_error_and_the_client_nothing(pair):
    server, client = pair
    taken, sink = swap(server)
    with taken:
        server.sendall(b"unread")
        sink.close()
        sink.close()
        with pytest.raises(BrokenPipeError):
            server.sendall(b"late")
        assert server.recv(10) == b""  # an end, not a reset
        taken.send(b"ours")
        assert client.recv(10) == b"ours"


def test_everything_that_was_opened_is_closed_again(pair):
    before = descriptors()
    taken, sink = swap(pair[0])
    assert descriptors() == before + 2
    taken.close()
    del sink  # a server that never calls close() on the body
    assert descriptors() <= before


def test_a_default_timeout_does_not_reach_the_server(pair):
    socket.setdefaulttimeout(0.01)
    try:
        taken, sink = swap(pair[0])
    finally:
        socket.setdefaulttimeout(None)
    with taken, contextlib.closing(sink):
        assert os.get_blocking(pair[0].fileno())
        assert isinstance(sink, Sink)
