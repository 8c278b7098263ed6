"""The door of a hub: whoever says something wrong is told so, and nobody else notices."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterload import text
from afterload.hub import rendezvous
from afterload.hub.control import Control
from afterload.hub.frames import LONGEST, VERSION, frame, rights
from afterload.hub.messages import of_follow
from afterload.hub.thread import HubThread
from afterload.hub.viewer import Follow
from tests.hub.door import Door, Owner, descriptors, hello
from tests.servers.process import wait_until

PATCH = [["text", "#a", "1"]]


def viewer(*names: str, **follow: Any) -> dict[str, Any]:
    return {"say": "adopt", "follow": {**of_follow(Follow(None, names or ("news",))), **follow}}


def until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, f"ended without {mark!r}: {data!r}"
        data += more
    return data


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def goes_on(door: Door) -> None:
    """Somebody who behaves is served as ever."""
    client = door.client("well-behaved")
    before = door.hub.head()
    assert client.publish("well-behaved", (text("#a", "1"),)) == before + 1 == client.head()
    client.close()
    wait_until(lambda: "well-behaved" not in door.control.members, 10, "it to be gone")


# Coming in


def test_a_process_is_welcomed_with_the_epoch_and_the_head(door):
    door.hub.publish("news", (text("#a", "1"),))
    client = door.client("me")
    assert (client.epoch, client.kind, client.pid) == (door.hub.epoch, "thread", os.getpid())
    assert client.head() == 1
    (process,) = client.stats()["processes"]
    assert process["pid"] == os.getpid()


def test_two_processes_of_one_name_are_not_let_in(door):
    door.client("same")
    second = door.plain()
    second.say(hello("same"))
    assert "a process of the name 'same' is here already" in second.sent_away()
    assert list(door.control.members) == ["same"]
    goes_on(door)


def test_another_user_is_sent_away_and_told_why(door, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(rendezvous, "peer", lambda sock: (77, os.geteuid() + 1))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(rendezvous.address(door.namespace))
        with sock:
            said = b"".join(iter(lambda: sock.recv(65536), b""))
    assert f"and this process is of user {os.geteuid() + 1}: run it as the same user".encode() in said
    goes_on(door)


def test_what_another_user_says_before_it_is_sent_away_is_not_heard(door, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(rendezvous, "peer", lambda sock: (77, os.geteuid() + 1))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with sock:
            sock.connect(rendezvous.address(door.namespace))
            try:
                sock.sendall(frame({"hello": "calls", "epoch": ""}))
                sock.sendall(frame({"call": "publish", "name": "news", "entry": PATCH}))
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass  # it was sent away before it had said all
    door.settled()
    assert door.hub.head() == 0


def test_a_connection_that_is_meant_for_a_hub_that_is_gone_is_told_so(door):
    """Its process looks for the new one, and may say to that what it had to say."""
    plain = door.plain()
    plain.say({"hello": "calls", "epoch": "of another life"})
    assert "gone" in (plain.hear() or {})
    assert plain.hear() is None


@pytest.mark.parametrize("version", [0, 1, 200])
def test_another_version_is_told_which_one_is_spoken_here(door, version):
    plain = door.plain()
    plain.raw(struct.pack("!2sBBI", b"al", version, 0, 0xFFFF_FFFF) + b"whatever it says in that one")
    assert plain.sent_away() == f"version {version} is spoken there, and {VERSION} here"
    goes_on(door)


# What is wrong ends the connection it came by, with a word that says why


def say(message: Any) -> bytes:
    return frame(message)


EVENTS = {
    "nonsense": (b"GET / HTTP/1.1\r\n\r\n", "begins no frame"),
    "too long": (struct.pack("!2sBBI", b"al", VERSION, 0, LONGEST + 1), "longer than"),
    "no JSON": (struct.pack("!2sBBI", b"al", VERSION, 0, 1) + b"{", "no JSON"),
    "no object": (struct.pack("!2sBBI", b"al", VERSION, 0, 2) + b"[]", "an object, not list"),
    "nothing": (say({}), "none that is known here"),
    "unknown": (say({"say": "sing"}), "none that is known here"),
    "no word": (say({"say": ["adopt"]}), "none that is known here"),
    "a second hello": (say(hello("again")), "none that is known here"),
    "a call": (say({"call": "stats"}), "none that is known here"),
    "no loops": (say({"say": "offer", "loops": 3}), "none that is known here"),
    "a loop without a name": (say({"say": "offer", "loops": [["", 1]]}), "name"),
    "a loop that never lingers": (say({"say": "offer", "loops": [["a", -1]]}), "linger"),
    "no lease": (say({"say": "refuse", "loop": "a", "lease": "x"}), "none that is known here"),
    "an endless lease": (
        say({"say": "give back", "loop": "a", "lease": float("inf")}),
        "none that is known here",
    ),
    "a viewer without its socket": (say(viewer()), "a viewer comes with its socket"),
    "a private one without": (
        say({"say": "relay", "member": "x", "viewer": {}}),
        "a viewer comes with its socket",
    ),
    "a descriptor that did not come": (frame(viewer(), 1), "has not the descriptor"),
    "two of them": (frame(viewer(), 2), "has not the descriptor"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_wrong_ends_its_connection_and_says_why(door, name):
    data, why = EVENTS[name]
    plain = door.plain("events")
    plain.raw(data)
    assert why in plain.sent_away()
    wait_until(lambda: not door.control.members, 10, "it to be gone")
    assert door.hub.stats()["refused_processes"] == 1
    goes_on(door)


@pytest.mark.parametrize(
    "said",
    [
        {}, {"hello": "spring"}, {"hello": []}, {"hello": "calls"}, {"hello": "calls", "epoch": None},
        {**hello("a"), "settings": {"linger": "long"}},
        {**hello("a"), "settings": 3}, {**hello("a"), "levels": []}, {**hello("a"), "levels": {"x": "loud"}},
        {"hello": "events"}, {"say": "adopt"},
    ],
    ids=str,
)  # fmt: skip
def test_a_hello_that_is_none_is_refused(door, said):
    plain = door.plain()
    plain.say(said)
    while (heard := plain.hear()) is not None:
        assert {"error", "gone"} & set(heard)
    assert door.control.members == {}
    assert door.hub.settings == door.settings
    goes_on(door)


def test_settings_that_only_a_later_version_knows_are_passed_over(door):
    plain = door.plain()
    plain.say({**hello("later"), "settings": {"colour": 1, "linger": 7.0}})
    assert "welcome" in (plain.hear() or {})
    assert door.hub.settings.linger == 7.0


def test_half_a_message_holds_nobody_up_and_is_forgotten_with_its_connection(door):
    plain = door.plain("events")
    plain.raw(frame(viewer())[:20])
    goes_on(door)
    plain.close()
    wait_until(lambda: not door.control.members, 10, "it to be gone")
    goes_on(door)


def test_a_message_that_comes_byte_by_byte_is_heard_and_others_are_served_between(door, pair):
    plain = door.plain("events")
    data = frame(viewer(), 1)
    plain.raw(data[:1], pair[0].fileno())
    for i in range(1, len(data)):
        plain.raw(data[i : i + 1])
        if not i % 40:
            goes_on(door)
    until(pair[1], b"event: hello")


def test_connections_that_say_nothing_disturb_nobody(door):
    silent = [door.plain() for _ in range(1000)]
    goes_on(door)
    wait_until(lambda: len(door.control.connections) == 1000, 10, "the other one to be gone")
    for plain in silent:
        plain.close()
    wait_until(lambda: not door.control.connections, 10, "them to be gone")


def test_one_that_does_not_read_what_it_is_told_is_ended_and_holds_nobody_up(door):
    plain = door.plain("events")
    (connection,) = door.control.members.values()
    for _ in range(40):
        door.in_poller(lambda: connection.say({"say": "record", "text": "x" * 1_000_000}))
    assert connection.closed
    assert connection.unsent <= 17_000_000
    goes_on(door)
    plain.close()


# Descriptors


def test_a_socket_that_is_handed_over_is_served_by_the_hub(door, pair):
    plain = door.plain("events")
    plain.say(viewer("news", head="HTTP/1.1 200 OK\r\n\r\n"), pair[0].fileno())
    pair[0].close()
    assert until(pair[1], b"event: hello").startswith(b"HTTP/1.1 200 OK\r\n\r\n")
    plain.close()  # a worker's end is not noticed by its pages
    wait_until(lambda: not door.control.members, 10, "it to be gone")
    door.hub.publish("news", (text("#a", "still here"),))
    until(pair[1], b"still here")


def test_a_socket_that_comes_with_a_later_byte_of_its_message_is_its_own(door, pair):
    plain = door.plain("events")
    data = frame(viewer(), 1)
    plain.raw(data[:30])
    plain.raw(data[30:], pair[0].fileno())
    until(pair[1], b"event: hello")


def test_many_viewers_in_one_go_are_each_served_by_their_own(door):
    plain = door.plain("events")
    pairs = [socket.socketpair() for _ in range(100)]
    for i, (ours, _) in enumerate(pairs):
        plain.say(viewer(f"channel-{i}"), ours.fileno())
        ours.close()
    for i, (_, theirs) in enumerate(pairs):
        theirs.settimeout(20)
        assert f'"channels":["channel-{i}"]'.encode() in until(theirs, b"\n\n")
        theirs.close()


def test_a_descriptor_that_is_no_socket_is_refused_and_closed(door):
    plain = door.plain("events")
    with open(os.devnull) as some:
        plain.say(viewer(), some.fileno())
    assert "what came as a viewer's socket is none" in plain.sent_away()
    goes_on(door)


@pytest.mark.parametrize(
    "kind", ["a listener", "one without a peer", "a datagram socket", "one that is shut"]
)
def test_a_socket_that_cannot_be_served_is_closed_and_disturbs_nobody(door, kind):
    plain = door.plain("events")
    made = socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM if kind == "a datagram socket" else socket.SOCK_STREAM
    )
    if kind == "a listener":
        made.listen()
    if kind == "one that is shut":
        made.close()
        made, other = socket.socketpair()
        other.close()
    with made:
        plain.say(viewer(), made.fileno())
    goes_on(door)
    wait_until(lambda: door.hub.stats()["viewers"] == 0, 10, "it to be dropped")
    assert len(door.control.members) == 1  # it was not the process's fault


@pytest.mark.parametrize("kind", ["events", "calls", ""])
def test_a_descriptor_that_no_message_speaks_of_is_closed_with_its_connection(door, kind):
    plain = door.plain(kind)
    before = descriptors()
    ours, theirs = socket.socketpair()
    with theirs:
        plain.raw(frame({"hello": "calls", "epoch": ""})[:10], ours.fileno())
        ours.close()
        plain.close()
        theirs.settimeout(20)
        assert theirs.recv(1) == b""  # nobody has it any more
    wait_until(lambda: descriptors() < before, 10, "both to be closed")
    goes_on(door)


def test_a_descriptor_with_a_message_that_has_no_use_for_it_is_refused_and_closed(door, pair):
    plain = door.plain("events")
    plain.say({"say": "withdraw"}, pair[0].fileno())
    pair[0].close()
    assert "no use for one" in plain.sent_away()
    assert pair[1].recv(1) == b""


def test_a_descriptor_with_a_call_is_refused_and_closed(door, pair):
    plain = door.plain("calls")
    plain.say({"call": "stats"}, pair[0].fileno())
    pair[0].close()
    assert "value" in (plain.hear() or {})
    assert "no use for one" in plain.sent_away()
    assert pair[1].recv(1) == b""


def test_more_descriptors_than_can_be_taken_end_the_connection_and_are_closed(door, pair):
    plain = door.plain("events")
    many = struct.pack("40i", *[pair[0].fileno()] * 40)
    plain.sock.sendmsg([frame(viewer(), 1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
    pair[0].close()
    assert "descriptors were lost" in plain.sent_away()
    assert pair[1].recv(1) == b""


@pytest.mark.parametrize(
    "change",
    [
        {"names": []}, {"names": ["\ud800"]}, {"names": [""]}, {"names": ["x" * 201]}, {"names": ["a"] * 51},
        {"position": "1\n2"}, {"position": "x\r"}, {"position": "a b"}, {"position": "\ud800"}, {"into": "\ud800"},
        {"head": "\u20ac"}, {"wire": "x"}, {"sent": -(10**400)}, {"sent": "x"}, {"opening": "?"},
        {"into": "x" * 100_000}, {"address": "\ud800\n"}, {"foreign": "yes"}, {"hold": []},
    ],
    ids=lambda change: repr(change)[:60],
)  # fmt: skip
def test_a_viewer_that_asks_for_what_no_page_asks_for_disturbs_nobody(door, pair, change):
    """It is served, or its connection is closed and its process told so."""
    plain = door.plain("events")
    plain.raw(escaped(viewer(**change)), pair[0].fileno())
    pair[0].close()
    first = pair[1].recv(65536)
    assert first == b"" or first.startswith(b"event: hello")
    goes_on(door)


def escaped(message: Any, descriptors: int = 1) -> bytes:
    """A frame that may have lone surrogates, as JSON can say them."""
    body = json.dumps(message).encode()
    return struct.pack("!2sBBI", b"al", VERSION, descriptors, len(body)) + body


# Others' private loops


def test_a_process_that_never_answers_for_another_holds_up_only_who_asks(door):
    door.plain("events")  # it is asked, and says nothing
    (silent,) = door.control.members
    asking = door.plain("calls")
    asking.say({"call": "ask", "member": silent, "key": "k", "label": "spin", "at": 3})
    goes_on(door)
    asking.close()


def test_an_answer_that_nobody_has_asked_for_is_passed_over(door):
    plain = door.plain("events")
    plain.say({"say": "answer", "number": 77, "value": 1})
    goes_on(door)
    assert len(door.control.members) == 1


# No descriptor is left, or too many are on their way


class Refusing:
    """A socket of which a method fails a few times."""

    def __init__(self, sock: socket.socket, method: str, number: int, times: int) -> None:
        self._sock, self._method, self._number = sock, method, number
        self.left = times

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sock, name)
        return self._refuse if name == self._method and self.left else found

    def _refuse(self, *said: Any) -> Any:
        self.left -= 1
        raise OSError(self._number, os.strerror(self._number))


@pytest.fixture
def turns(door, monkeypatch):
    """How often the poller has turned."""
    counted = [0]
    real = door.hub.poller.run_once

    def run_once(timeout: float | None = None) -> None:
        counted[0] += 1
        real(timeout)

    monkeypatch.setattr(door.hub.poller, "run_once", run_once)
    return counted


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_who_comes_while_no_descriptor_is_left_is_let_in_later_and_the_poller_does_not_spin(
    door, turns, caplog, number
):
    door.settled()
    door.control._listener = refusing = Refusing(door.control._listener, "accept", number, 3)
    before = turns[0]
    goes_on(door)
    assert refusing.left == 0
    assert turns[0] - before < 60
    assert door.hub.stats()["paused"] >= 1
    assert "a process could not be let in" in caplog.text


def test_a_viewer_for_another_process_waits_while_too_many_are_on_their_way(door, turns, pair):
    """ETOOMANYREFS: as many descriptors as the system has for this user are in no process's hands."""
    owner = Owner()
    door.client("runs-it", owner)
    connection = door.control.members["runs-it"]
    connection.sock = refusing = Refusing(connection.sock, "sendmsg", errno.ETOOMANYREFS, 3)
    client = door.client()
    before = turns[0]
    client.relay(pair[0], "runs-it", {"key": "k"})
    client.forward("runs-it", "k")
    wait_until(lambda: owner.taken and owner.told, 20, "both to arrive")
    assert refusing.left == 0
    assert turns[0] - before < 60
    sock, viewer = owner.taken[0]
    assert viewer == {"key": "k"}
    sock.close()


def test_a_hub_that_is_full_leaves_viewers_unread_and_takes_them_when_there_is_room(door, turns, pair):
    client = door.client()
    client.publish("news", (text("#a", "1"),))
    most = door.hub.fanout.descriptors_most
    door.hub.fanout.descriptors_most = 3
    before = turns[0]
    client.adopt(pair[0], Follow(None, ("news",)))
    assert [client.publish("news", (text("#a", "1"),)) for _ in range(10)] == list(range(2, 12))
    assert door.hub.stats()["viewers"] == 0
    assert turns[0] - before < 60
    door.hub.fanout.descriptors_most = most
    until(pair[1], b"event: hello")


def test_a_full_hub_hears_who_publishes_for_the_first_time(door):
    door.hub.fanout.descriptors_most = 3
    plain = door.plain("calls")
    plain.say({"call": "publish", "name": "news", "entry": PATCH})
    assert plain.hear() == {"value": 1}


# Whatever comes

WORDS = st.sampled_from(
    [
        "say", "call", "hello", "events", "calls", "epoch", "member", "title", "settings", "levels", "adopt", "relay",
        "offer", "refuse", "give back", "withdraw", "forward", "answer", "publish", "publish run", "finish", "restart",
        "viewers", "at end", "ask", "stats", "make way", "name", "names", "entry", "loop", "loops", "lease", "count",
        "number", "value", "key", "label", "follow", "viewer", "at", "rendered", "status", "message", "news", "", "x",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
GOOD: list[dict[str, Any]] = [
    {"hello": "calls", "epoch": ""},
    {"call": "publish", "name": "news", "entry": PATCH},
    {"call": "publish run", "name": "clock", "lease": 1, "count": 1, "entry": PATCH},
    {"call": "finish", "name": "clock", "lease": 1, "status": "done", "message": ""},
    {"call": "restart", "name": "clock"},
    {"call": "viewers", "name": "news"},
    {"call": "at end", "names": ["news"], "at": 1},
    {"call": "answer", "names": ["news"], "at": None, "rendered": False},
    {"call": "ask", "member": "x", "key": "k", "label": "l", "at": 3},
    {"call": "stats"},
    {"call": "make way"},
    {"say": "offer", "loops": [["clock", 1.0]]},
    {"say": "refuse", "loop": "clock", "lease": 1},
    {"say": "give back", "loop": "clock", "lease": 1},
    {"say": "withdraw"},
    viewer("news"),
    {"say": "relay", "member": "x", "viewer": {"key": "k"}},
    {"say": "forward", "member": "x", "key": "k"},
    {"say": "answer", "number": 1, "value": 1},
]


@st.composite
def said(draw: Any) -> bytes:
    """A frame of any kind, with something in it changed."""
    message = dict(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 2))):
        message[draw(WORDS | st.sampled_from(sorted(message)))] = draw(VALUES)
    data = bytearray(escaped(message, draw(st.sampled_from([0, 0, 1, 2]))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.sampled_from([len(data)] * 4 + [len(data) // 2]))])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    kind=st.sampled_from(["events", "calls", ""]),
    frames=st.lists(st.tuples(said(), st.booleans()), max_size=5),
)
def test_whatever_is_said_disturbs_nobody_who_behaves(door, kind, frames):
    behaves = door.well_behaved
    plain = door.plain(kind)
    ours, theirs = socket.socketpair()
    try:
        for data, along in frames:
            plain.sock.sendmsg([data], rights(ours.fileno() if along else None))
    except ConnectionError:
        pass  # sent away already
    ours.close()
    theirs.close()
    before = behaves.head()
    offset = behaves.publish("well-behaved", (text("#a", "1"),))
    assert offset > before
    assert behaves.head() >= offset
    assert door.hub.poller.errors == 0
    plain.close()


def test_a_door_that_is_made_when_its_hub_has_ended_already_leaves_the_place_to_others(door):
    """As by a process that was looking for a hub while it was closed."""
    namespace = f"{door.namespace}-late"
    late = HubThread(door.settings)
    late.close()
    listener = rendezvous.bind(namespace)
    assert listener is not None
    control = Control(late.hub, listener, namespace, "thread")
    control.leave()
    following = rendezvous.bind(namespace)
    assert following is not None
    following.close()
