"""What is read of a request's body: each byte once, nothing behind it, and it is known where it ends."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterload.handover import Refused, request_body
from afterload.handover.request_body import MOST, RequestBody, read_rest, watch

BEHIND = b"GET / HTTP/1.1\n\n"
POST = {"REQUEST_METHOD": "POST", "gunicorn.socket": None, "wsgi.input_terminated": True}


def readinto(body: io.BufferedIOBase) -> bytes:
    buffer = bytearray(6)
    return bytes(buffer[: body.readinto(buffer)])


READS: dict[str, Callable[[io.BufferedIOBase], bytes]] = {
    "read": lambda body: body.read(),
    "read(None)": lambda body: body.read(None),
    "read(3)": lambda body: body.read(3),
    "read(0)": lambda body: body.read(0),
    "read1": lambda body: body.read1(),
    "read1(4)": lambda body: body.read1(4),
    "readinto": readinto,
    "readline": lambda body: body.readline(),
    "readline(2)": lambda body: body.readline(2),
    "readlines": lambda body: b"".join(body.readlines(5)),
    "next": lambda body: next(body, b""),
}


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end, and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


# Whatever reads, and whenever the rest is read ahead, the bytes are those of the body, in order and once.


@given(
    data=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"d" * 9])).map(b"".join),
    before=st.lists(st.sampled_from(list(READS))),
    behind=st.lists(st.sampled_from(list(READS))),
    chunked=st.booleans(),
)
def test_reading_is_as_of_a_file_and_so_it_is_after_reading_ahead(data, before, behind, chunked):
    source, file = io.BytesIO(data if chunked else data + BEHIND), io.BufferedReader(io.BytesIO(data))
    body = RequestBody(source, None if chunked else len(data))
    for name in before:
        assert READS[name](body) == READS[name](file)
    assert body.read_ahead(MOST) is None
    assert source.read() == (b"" if chunked else BEHIND)
    source.close()  # as servers do when they are through with a request
    for name in behind:
        assert READS[name](body) == READS[name](file)
    assert body.read_ahead(MOST) is None
    assert body.read() == file.read()
    assert (body.read(), body.read(5), body.readline()) == (b"", b"", b"")


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_more_than_may_be_read_ahead_is_left_and_can_still_be_read(chunked):
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    body = RequestBody(io.BytesIO(data), None if chunked else len(data))
    first = body.readline()
    reason = body.read_ahead(100_000)
    assert reason is not None
    assert "bytes of the request's body were left unread" in reason
    assert first + body.read(5) + body.readline() + b"".join(body) == data
    assert body.read_ahead(100_000) is None


@pytest.mark.parametrize("chunked", [False, True])
def test_exactly_as_much_as_may_be_read_ahead_is(chunked):
    body = RequestBody(io.BytesIO(b"x" * MOST), None if chunked else MOST)
    assert body.read_ahead(MOST) is None
    assert len(body.read()) == MOST


def test_a_body_that_ends_early_was_not_read_whole():
    body = RequestBody(io.BytesIO(b"1234567"), 10)
    assert body.read_ahead(MOST) == "the request's body ended 3 bytes early"
    assert body.read() == b"1234567"


def test_a_source_that_gives_less_than_it_is_asked_for_is_asked_again(connection):
    ours, theirs = connection
    theirs.sendall(b"123")
    with ours.makefile("rb", buffering=0) as source:

        class More(RequestBody):
            def _from_source(self, how: str, size: int) -> bytes:
                data = super()._from_source(how, size)
                theirs.sendall(b"4567" if data == b"123" else BEHIND)
                return data

        body = More(source, 7)
        assert body.read_ahead(MOST) is None
        assert body.read() == b"1234567"


@pytest.mark.parametrize("length", [10, None])
@pytest.mark.parametrize("by", ["the app", "us"])
def test_after_a_failure_nobody_reads_on_from_the_middle(length, by):
    class Source:
        def __init__(self) -> None:
            # As gunicorn's, which goes on as if it had ended.
            self.next = iter([b"abc", TimeoutError("timed out"), b""])

        def read(self, size: int = -1) -> bytes:
            answer = next(self.next)
            if isinstance(answer, Exception):
                raise answer
            return answer

    body = RequestBody(Source(), length)
    if by == "the app":
        assert body.read(3) == b"abc"
        with pytest.raises(TimeoutError):
            body.read(3)
    reason = "the request's body could not be read to its end: TimeoutError('timed out')"
    assert body.read_ahead(MOST) == reason
    if by == "us":
        assert body.read(3) == b"abc"
    with pytest.raises(OSError, match="could not be read to its end"):
        body.read(1)


# Which requests have one.


@pytest.mark.parametrize(
    "change",
    [
        {"CONTENT_LENGTH": "x"},
        {"CONTENT_LENGTH": "-1"},
        {"CONTENT_LENGTH": "9" * 5000},
        {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": False},
    ],
)
def test_an_input_that_nothing_is_known_of_is_left_as_it_is(change):
    source = io.BytesIO()
    environ = {**POST, "wsgi.input": source, **change}
    watch(environ)
    assert environ["wsgi.input"] is source


def test_nor_is_one_replaced_on_a_server_whose_connections_are_never_taken():
    source = io.BytesIO(b"body")
    environ = {"CONTENT_LENGTH": "4", "wsgi.input": source}
    watch(environ)
    assert environ["wsgi.input"] is source


@pytest.mark.parametrize("change", [{"CONTENT_LENGTH": "4"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_what_others_read_is_counted_through_any_number_of_apps(change, connection):
    environ: dict[str, Any] = {**POST, "wsgi.input": io.BytesIO(b"body"), **change}
    watch(environ)
    watch(environ)  # an app of its own inside of this one
    body = environ["wsgi.input"]
    assert body.read(1) == b"b"
    environ["wsgi.input"] = io.BytesIO(b"of a middleware inside")
    assert read_rest(environ, connection[0]) is None
    assert body.read() == b"ody"


def test_a_body_that_was_not_watched_is_refused(connection):
    for change in ({"CONTENT_LENGTH": "4"}, {"HTTP_TRANSFER_ENCODING": "chunked"}):
        found = read_rest({**POST, **change}, connection[0])
        assert found == Refused("the request has a body, and what was read of it is not known")
    for change in ({}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}):
        assert read_rest({**POST, **change}, connection[0]) is None


def test_a_silent_client_is_waited_for_no_longer_than_that(connection, monkeypatch):
    monkeypatch.setattr(request_body, "PATIENCE", 0.01)
    ours, theirs = connection
    theirs.sendall(b"bo")
    with ours.makefile("rb") as source:
        environ = {**POST, "CONTENT_LENGTH": "4", "wsgi.input": source}
        watch(environ)
        found = read_rest(environ, ours)
    assert isinstance(found, Refused)
    assert not found.lasting
    assert "timed out" in found.reason
    assert ours.gettimeout() is None  # as the server had it
