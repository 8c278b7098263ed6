"""Frames: the same messages however the bytes are split, and nothing worse than an error for what is none."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterload.hub import frames as module
from afterload.hub.frames import LONGEST, VERSION, FrameError, Frames, Message, frame, receive, rights

# What a process and its hub say to each other when it comes, publishes, and hands over a viewer.
CONVERSATION: list[tuple[Message, int]] = [
    ({"hello": "events", "member": "a", "title": "gunicorn", "settings": {}, "levels": {}}, 0),
    ({"welcome": "epoch", "pid": 7, "kind": "process"}, 1),
    ({"say": "offer", "loops": [["clock", 15.0]]}, 0),
    ({"call": "publish", "name": "ü\u2028", "entry": [["text", "#a", "\x00\ud7ff\U0001f600"]]}, 0),
    ({}, 0),
    ({"say": "adopt", "follow": {"names": ["news"], "head": "HTTP/1.1 200 OK\r\n\r\n"}}, 1),
]
RECORDED = b"".join(frame(message, descriptors) for message, descriptors in CONVERSATION)


def head(
    magic: bytes = b"al", version: int = VERSION, descriptors: int = 0, length: int = 2, body: bytes = b"{}"
) -> bytes:
    return struct.pack("!2sBBI", magic, version, descriptors, length) + body


def test_what_is_said_is_what_is_heard_wherever_the_bytes_are_split():
    for at in range(len(RECORDED) + 1):
        frames = Frames()
        assert [*frames.feed(RECORDED[:at]), *frames.feed(RECORDED[at:])] == CONVERSATION


def test_one_byte_at_a_time_is_the_same():
    frames = Frames()
    heard = [found for i in range(len(RECORDED)) for found in frames.feed(RECORDED[i : i + 1])]
    assert heard == CONVERSATION


@given(st.lists(st.integers(1, 40), max_size=60))
def test_any_split_is_the_same(sizes: list[int]) -> None:
    frames, heard, at = Frames(), [], 0
    for size in [*sizes, len(RECORDED)]:
        heard += frames.feed(RECORDED[at : at + size])
        at += size
    assert heard == CONVERSATION


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "b'GET / HT' begins no frame"),
        (head(magic=b"la"), "begins no frame"),
        (head(length=LONGEST + 1, body=b""), f"a frame of {LONGEST + 1:,} bytes is longer than {LONGEST:,}"),
        (head(length=0xFFFF_FFFF, body=b""), "longer than"),
        (head(length=0, body=b""), "a frame's content is no JSON"),
        (head(body=b"{ "), "a frame's content is no JSON"),
        (head(body=b"\xff\xff"), "a frame's content is no JSON"),
        (head(length=6, body=b'{"a":}'), "a frame's content is no JSON"),
        (head(length=200_000, body=b"[" * 200_000), "a frame's content is no JSON"),
        (head(body=b"[]"), "a frame's content is an object, not list"),
        (head(length=4, body=b"null"), "a frame's content is an object, not NoneType"),
        (head(body=b"12"), "a frame's content is an object, not int"),
    ],
)
def test_what_is_no_frame_is_refused_and_it_says_why(data: bytes, why: str) -> None:
    with pytest.raises(FrameError) as caught:
        list(Frames().feed(data))
    assert why in str(caught.value)
    assert caught.value.version == 0


@pytest.mark.parametrize("version", [0, 1, 255])
def test_another_version_is_named_before_anything_else_is_looked_at(version: int) -> None:
    """A later version may have other lengths and other contents: of those nothing can be said."""
    with pytest.raises(FrameError, match=f"version {version} is spoken there, and {VERSION} here") as caught:
        list(Frames().feed(head(version=version, length=0xFFFF_FFFF, body=b"")))
    assert caught.value.version == version


def test_what_came_before_the_error_is_heard():
    frames = Frames().feed(frame({"a": 1}) + frame({"b": 2}) + b"nonsense")
    assert next(frames) == ({"a": 1}, 0)
    assert next(frames) == ({"b": 2}, 0)
    with pytest.raises(FrameError):
        next(frames)


def test_a_message_that_is_too_long_is_refused_where_it_is_said(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 100)
    assert len(frame({"a": "x" * 92})) == 8 + 100
    with pytest.raises(FrameError, match="101 bytes are more than the 100 that one message may have"):
        frame({"a": "x" * 93})


def test_a_long_message_in_many_pieces_is_heard_once():
    data = frame({"a": "x" * 1_000_000})
    frames = Frames()
    heard = [found for at in range(0, len(data), 4096) for found in frames.feed(data[at : at + 4096])]
    assert heard == [({"a": "x" * 1_000_000}, 0)]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.binary(max_size=8).map(lambda b: b"al\x02" + b),
            st.builds(
                lambda body, d: head(descriptors=d, length=len(body), body=body),
                st.one_of(
                    st.binary(max_size=20), st.from_regex(rb'[\[\]{}",:0-9a-z\\]{0,20}', fullmatch=True)
                ),
                st.integers(0, 255),
            ),
            st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5)).map(frame),
        ),
        max_size=8,
    )
)
def test_any_bytes_give_objects_or_an_error_of_frames_and_keep_no_more_than_came(pieces: list[bytes]) -> None:
    frames, came = Frames(), 0
    try:
        for piece in pieces:
            came += len(piece)
            for message, descriptors in frames.feed(piece):
                assert type(message) is dict
                assert 0 <= descriptors <= 255
            assert len(frames._rest) <= came
    except FrameError:
        pass


def test_a_length_alone_costs_no_memory():
    """A frame that says that it is long, and is not, must not be made room for."""
    frames = Frames()
    assert list(frames.feed(head(length=LONGEST, body=b"x"))) == []
    assert len(frames._rest) == 9


# Descriptors


def test_a_descriptor_comes_along_with_its_message():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        read, write = os.pipe()
        data = frame({"say": "adopt"}, 1)
        ours.sendmsg([data], rights(write))
        descriptors: deque[int] = deque()
        assert list(Frames().feed(receive(theirs, descriptors))) == [({"say": "adopt"}, 1)]
        (descriptor,) = descriptors
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, b"by it")
        assert os.read(read, 10) == b"by it"
        for fd in (read, write, descriptor):
            os.close(fd)


def test_without_a_descriptor_nothing_is_sent_along():
    assert rights(None) == []


def test_descriptors_for_which_there_is_no_room_are_an_error_and_not_a_message_without_one():
    """Else the viewer of one message would be taken for that of the next."""
    ours, theirs = socket.socketpair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors: deque[int] = deque()
    with ours, theirs, open(os.devnull) as some:
        ours.sendmsg([frame({"say": "adopt"}, 1)], rights(some.fileno()))
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(FrameError, match="descriptors were lost on the way"):
                receive(theirs, descriptors)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not descriptors


def test_more_descriptors_than_there_is_room_for_are_an_error_and_those_that_came_can_be_closed():
    ours, theirs = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    descriptors: deque[int] = deque()
    with ours, theirs, open(os.devnull) as some:
        many = struct.pack("60i", *[some.fileno()] * 60)
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
        with pytest.raises(FrameError, match="descriptors were lost on the way"):
            receive(theirs, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_the_end_of_a_connection_is_no_bytes():
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        assert receive(theirs, deque()) == b""


def test_frames_are_json_that_anybody_can_read():
    data = frame({"say": "ü"})
    assert json.loads(data[8:].decode()) == {"say": "ü"}
