"""A hub in another process, as this one sees it: what is said arrives once, and no answer is waited for for ever."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from afterload import text
from afterload.errors import HubError, LoopError
from afterload.hub import calls as of_calls
from afterload.hub import client as module
from afterload.hub import rendezvous
from afterload.hub.calls import Calls, Gone
from afterload.hub.client import Client
from afterload.hub.frames import VERSION, Frames, frame
from afterload.hub.viewer import Follow
from afterload.settings import Settings
from tests.hub.door import Door, Owner, descriptors
from tests.servers.process import wait_until

PATCH = (text("#a", "1"),)


def until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, f"ended without {mark!r}: {data!r}"
        data += more
    return data


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


# Publishing


def test_publish_returns_the_offset_that_the_hub_has_given(door):
    client = door.client()
    assert [client.publish("news", PATCH) for _ in range(3)] == [1, 2, 3]
    assert door.hub.log.channels["news"].seq == 3


def test_what_was_published_by_one_is_in_what_another_reads_afterwards(door):
    """A page's position is taken before its data is read; a redirect after a POST may lead to another worker."""
    writer, reader = door.client(), door.client()
    for _ in range(200):
        assert writer.publish("news", PATCH) <= reader.head()


def test_many_threads_are_answered_each_with_its_own_and_travel_together(door, monkeypatch):
    client = door.client()
    client.publish("news", PATCH)
    exchanges = itertools.count()
    real = Calls._exchange

    def counted(calls: Calls, batch: Any) -> None:
        next(exchanges)
        real(calls, batch)

    monkeypatch.setattr(Calls, "_exchange", counted)
    go_on = door.busy()
    with ThreadPoolExecutor(51) as pool:
        first = pool.submit(client.publish, "news", PATCH)
        wait_until(lambda: client._calls._led and not client._calls._queue, 20, "the first to be on its way")
        found = [pool.submit(client.publish, f"channel-{i}", PATCH) for i in range(50)]
        wait_until(lambda: len(client._calls._queue) == 50, 20, "all others to wait behind it")
        go_on()
        offsets = [future.result() for future in found]
    assert first.result() == 2
    assert sorted(offsets) == list(range(3, 53))
    assert next(exchanges) == 2
    for i, offset in enumerate(offsets):
        assert door.hub.log.news((f"channel-{i}",), offset - 1).steps
        assert not [s for s in door.hub.log.news((f"channel-{i}",), offset).steps if s.items]


def test_an_entry_that_is_refused_disturbs_no_other_of_its_batch(door):
    client = door.client()
    client.publish("news", PATCH)
    go_on = door.busy()
    names = [f"channel-{i}" if i % 5 else "" for i in range(50)]  # "" is no channel's name
    with ThreadPoolExecutor(51) as pool:
        first = pool.submit(client.publish, "news", PATCH)
        wait_until(lambda: client._calls._led and not client._calls._queue, 20, "the first to be on its way")
        found = [pool.submit(client.publish, name, PATCH) for name in names]
        wait_until(lambda: len(client._calls._queue) == 50, 20, "all others to wait behind it")
        go_on()
        for name, future in zip(names, found, strict=True):
            if name:
                assert future.result() > 1
            else:
                with pytest.raises(HubError, match="refuses: PatchError: a channel's name"):
                    future.result()
    assert first.result() == 2
    assert door.hub.head() == 42


def test_more_than_one_go_may_carry_is_sent_in_several(door, monkeypatch):
    monkeypatch.setattr(of_calls, "_BATCH", 500)
    client = door.client()
    client.publish("news", PATCH)
    go_on = door.busy()
    with ThreadPoolExecutor(31) as pool:
        first = pool.submit(client.publish, "news", PATCH)
        wait_until(lambda: client._calls._led and not client._calls._queue, 20, "the first to be on its way")
        found = [pool.submit(client.publish, "news", (text("#a", "x" * 100),)) for _ in range(30)]
        wait_until(lambda: len(client._calls._queue) == 30, 20, "all others to wait behind it")
        go_on()
        assert sorted(future.result() for future in found) == list(range(3, 33))
    assert first.result() == 2


def test_a_large_entry_arrives_whole(door):
    client = door.client()
    client.publish("news", (text("#a", "x" * 3_000_000),))
    assert door.hub.stats()["published"] == 1


def test_what_it_asks_is_answered_as_by_the_hub_itself(door, pair):
    client = door.client()
    client.publish("news", PATCH)
    client.adopt(pair[0], Follow(None, ("news",)))
    until(pair[1], b"event: hello")
    assert client.viewers("news") == 1
    assert client.viewers("other") == 0
    assert client.answer(("news",), None, rendered=False) == door.hub.answer(("news",), None, rendered=False)
    assert client.at_end(("news",), 1) is False
    door.hub.finish("news", "done")
    assert client.at_end(("news",), client.head()) is True
    assert client.stats()["published"] == door.hub.head() == client.head()


# Handing over


def test_a_viewer_is_handed_over_and_our_copy_is_closed(door, pair):
    client = door.client()
    client.adopt(pair[0], Follow(None, ("news",), head=b"HTTP/1.1 200 OK\r\n\r\n"))
    assert pair[0].fileno() < 0
    assert until(pair[1], b"event: hello").startswith(b"HTTP/1.1 200 OK\r\n\r\n")
    client.publish("news", PATCH)
    until(pair[1], b'"#a","1"')
    client.close()
    wait_until(lambda: not door.control.members, 10, "the process to be gone")
    door.hub.publish("news", (text("#a", "two"),))
    until(pair[1], b"two")


def test_more_sockets_at_once_than_the_system_lets_travel_are_waited_for(door, monkeypatch):
    """ETOOMANYREFS: as many as RLIMIT_NOFILE may be on their way."""
    client = door.client()
    real, refused = client._sock, []

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def sendmsg(self, *said: Any) -> int:
            if len(refused) < 3:
                refused.append(said)
                raise OSError(109, "Too many references: cannot splice")
            return real.sendmsg(*said)

    monkeypatch.setattr(client, "_sock", Full())
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(20)
        client.adopt(ours, Follow(None, ("news",)))
        until(theirs, b"event: hello")
    assert len(refused) == 3
    monkeypatch.setattr(client, "_sock", real)


def test_a_socket_that_could_not_be_handed_over_is_still_its_owners(door, pair):
    client = door.client()
    client.close()
    door.settled()
    with pytest.raises(Gone):
        client.adopt(pair[0], Follow(None, ("news",)))
    pair[0].send(b"mine")
    assert pair[1].recv(10) == b"mine"


# A hub that is silent, or ends


@pytest.fixture
def silent() -> Iterator[tuple[str, socket.socket]]:
    """A namespace whose place is taken, and nobody there says a word."""
    namespace = f"test-silent-{os.getpid()}-{threading.get_ident()}"
    listener = rendezvous.bind(namespace)
    assert listener is not None
    listener.settimeout(20)
    with listener:
        yield namespace, listener


def test_a_silent_hub_is_an_error_in_time_for_everybody_that_calls(silent):
    calls = Calls(silent[0], 0.5)
    begun = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        found = [pool.submit(calls.call, "publish", name="news", entry=[]) for _ in range(20)]
        for future in found:
            with pytest.raises(HubError, match=r"does not answer \(publish_timeout is 0.5 s\)") as caught:
                future.result()
            assert not isinstance(caught.value, Gone)  # it may have heard of it, so it is not said again
    assert time.monotonic() - begun < 10  # not one after the other
    calls.close()


def test_a_hub_that_answers_one_and_then_no_more_lets_the_others_know(silent):
    calls = Calls(silent[0], 20.0)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(calls.call, "stats")
        accepted, _ = silent[1].accept()
        accepted.settimeout(20)
        with accepted:
            frames = Frames()
            heard: list[Any] = []
            while len(heard) < 2:  # hello and the call
                heard += frames.feed(accepted.recv(65536))
            calls._timeout = 1.0  # of those that come now
            others = [pool.submit(calls.call, "stats") for _ in range(2)]
            wait_until(lambda: len(calls._queue) == 2, 20, "them to wait behind it")
            accepted.sendall(frame({"value": {"one": 1}}))
            assert first.result() == {"one": 1}
            for future in others:
                with pytest.raises(HubError, match="does not answer"):
                    future.result()
    calls.close()


def test_a_late_answer_is_nobody_elses(silent):
    """What is said to a call that was given up must not be taken for the answer to the next."""
    calls = Calls(silent[0], 0.3)
    with pytest.raises(HubError, match="does not answer"):
        calls.call("viewers", name="a")
    old, _ = silent[1].accept()
    with old, ThreadPoolExecutor(1) as pool:
        calls._timeout, calls._is_silent = 20.0, False
        second = pool.submit(calls.call, "viewers", name="b")
        new, _ = silent[1].accept()  # by another connection
        with new:
            try:
                old.sendall(frame({"value": 1}))
            except OSError:
                pass  # closed there
            new.settimeout(20)
            frames, heard = Frames(), []
            while len(heard) < 2:
                heard += frames.feed(new.recv(65536))
            assert heard[1][0]["name"] == "b"
            new.sendall(frame({"value": 2}))
            assert second.result() == 2
    calls.close()


def test_a_hub_that_says_nothing_when_a_process_comes_is_an_error(silent, door, monkeypatch):
    monkeypatch.setattr(module, "_HANDSHAKE", 0.2)
    with pytest.raises(HubError, match="does not answer"):
        Client.find(silent[0], Settings(), "me", door.own.hub.poller, Owner(), door.gone.append)


def test_where_nobody_has_the_place_there_is_no_client(door):
    assert (
        Client.find("test-nobody", Settings(), "me", door.own.hub.poller, Owner(), door.gone.append) is None
    )
    with pytest.raises(Gone, match="nobody is there"):
        Calls("test-nobody", 5).call("stats")


def test_a_hub_that_is_not_the_one_that_was_meant_has_heard_nothing(door):
    """A new one has the place, and this process has not noticed: what it says may be said again, to the new one."""
    calls = Calls(door.namespace, 20, "the epoch of another life")
    with pytest.raises(Gone):
        calls.call("publish", name="news", entry=[["text", "#a", "1"]])
    assert door.hub.head() == 0
    calls.close()


def test_a_hub_that_is_about_to_end_is_as_one_that_is_not_there(silent, door):
    def end_at_once() -> None:
        silent[1].accept()[0].close()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(end_at_once)
        found = Client.find(silent[0], Settings(), "me", door.own.hub.poller, Owner(), door.gone.append)
        ended.result()
    assert found is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is of another version of afterload, or none"),
        (b"al\x63\x00\x00\x00\x00\x02{}", f"version 99 is spoken there, and {VERSION} here; end it, and"),
        (frame({"error": "no", "version": VERSION}), "refuses this process: no"),
        (frame({"welcome": "e", "pid": 1, "kind": "process"}), "has not sent its head"),  # without the head
    ],
)
def test_a_hub_that_does_not_welcome_a_process_is_told_of(silent, door, said, why):
    before = descriptors()

    def answer() -> None:
        sock, _ = silent[1].accept()
        with sock:
            sock.settimeout(20)
            sock.recv(65536)
            sock.sendall(said)
            while sock.recv(65536):
                pass

    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answer)
        with pytest.raises(HubError, match=why):
            Client.find(silent[0], Settings(), "me", door.own.hub.poller, Owner(), door.gone.append)
        answered.result()
    assert descriptors() <= before


def test_a_hub_that_is_of_another_version_says_so_to_a_process_of_this_one(door, monkeypatch):
    """And the other way round: test_control.py."""
    monkeypatch.setattr("afterload.hub.frames.VERSION", 99)
    said = frame({"hello": "events"})
    monkeypatch.undo()
    plain = door.plain()
    plain.raw(said)
    assert plain.sent_away() == f"version 99 is spoken there, and {VERSION} here"


def test_calls_are_gone_when_the_hub_has_ended_and_their_owner_is_told_once(door):
    client = door.client()
    client.publish("news", PATCH)
    door.thread.close()
    wait_until(lambda: client.is_gone, 20, "it to be noticed")
    with pytest.raises(HubError):
        client.publish("news", PATCH)
    with pytest.raises(Gone):
        client.publish("news", PATCH)
    with pytest.raises(Gone):
        client.offer([("clock", 1.0)])
    door.own.hub.poller.call(lambda: None)
    wait_until(lambda: door.gone == [client], 20, "its owner to be told")


def test_a_call_that_the_hub_has_heard_and_not_answered_is_not_said_to_be_unheard(silent):
    """It is published again where it is unheard; else it could be there twice."""
    calls = Calls(silent[0], 20)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(calls.call, "publish", name="news", entry=[])
        accepted, _ = silent[1].accept()
        with accepted:
            accepted.settimeout(20)
            frames, heard = Frames(), []
            while len(heard) < 2:
                heard += frames.feed(accepted.recv(65536))
        with pytest.raises(
            HubError, match=r"has ended: .*; what was said may have reached it, or not"
        ) as caught:
            asked.result()
    assert not isinstance(caught.value, Gone)
    calls.close()


def test_closing_leaves_nothing_open(door):
    door.client().close()
    wait_until(lambda: not door.control.connections, 20, "it to be gone")
    before = descriptors()  # with the hub's own head, for whoever comes next
    client = door.client()
    client.publish("news", PATCH)
    client.close()
    wait_until(lambda: not door.control.connections, 20, "both connections to be ended")
    door.settled()
    assert client.is_gone
    assert descriptors() <= before


# What the hub has a process do


def test_loops_are_offered_started_and_stopped(door, pair):
    owner = Owner()
    client = door.client(owner=owner)
    client.offer([("clock", 0.0)])
    client.adopt(pair[0], Follow(None, ("clock",)))
    wait_until(lambda: owner.told, 20, "it to be started")
    ((what, name, number),) = owner.told
    assert (what, name) == ("start", "clock")
    assert client.publish_run("clock", number, 1, PATCH) == client.head()
    assert client.publish_run("clock", number + 1, 1, PATCH) is None
    assert client.publish_run("clock", number, 1, PATCH) == client.head()  # told twice, published once
    until(pair[1], b'"#a","1"')
    client.restart("clock")
    wait_until(lambda: len(owner.told) == 3, 20, "it to be started anew")
    assert owner.told[1] == ("stop", "clock", number)
    client.finish("clock", owner.told[2][2], "done", "")
    until(pair[1], b'"status":"done"')


def test_a_process_that_has_no_room_says_so_and_another_runs_the_loop(door, pair):
    full, free = Owner(), Owner()
    full.refuses = LoopError
    door.client("full", full).offer([("clock", 1.0)])
    door.settled()
    door.client("free", free).offer([("clock", 1.0)])
    door.settled()
    door.client().adopt(pair[0], Follow(None, ("clock",)))
    wait_until(lambda: free.told, 20, "the other one to be asked")
    assert door.hub.leases.holders() == {"clock": door.control.members["free"]}
    assert "full" in door.control.members  # and is still there


def test_the_loops_of_a_process_that_is_gone_are_run_by_another(door, pair):
    first, second = Owner(), Owner()
    client = door.client("first", first)
    client.offer([("clock", 1.0)])
    door.settled()
    door.client("second", second).offer([("clock", 1.0)])
    door.settled()
    door.client().adopt(pair[0], Follow(None, ("clock",)))
    wait_until(lambda: first.told, 20, "the first to run it")
    client.release()  # as when it is killed
    wait_until(lambda: second.told, 20, "the second to take over")


def test_the_viewer_of_a_private_loop_reaches_the_process_that_runs_it(door, pair):
    owner = Owner()
    door.client("runs-it", owner)
    client = door.client()
    client.relay(pair[0], "runs-it", {"key": "k"})
    assert pair[0].fileno() < 0
    wait_until(lambda: owner.taken, 20, "it to be taken")
    ((sock, viewer),) = owner.taken
    assert viewer == {"key": "k"}
    with sock:
        sock.send(b"here")
    assert pair[1].recv(10) == b"here"


def test_a_viewer_for_a_process_that_is_gone_is_closed_and_its_page_comes_again(door, pair):
    client = door.client()
    client.relay(pair[0], "gone", {"key": "k"})
    assert pair[1].recv(1) == b""


def test_how_a_private_loop_stands_is_asked_of_the_process_that_runs_it(door):
    owner = Owner()
    owner.ends = {"k": 7, "runs": 0}
    door.client("runs-it", owner)
    client = door.client()
    assert client.ask("runs-it", "k", "spin", 3) == 7
    assert client.ask("runs-it", "runs", "spin", 3) == 0
    assert client.ask("runs-it", "unknown", "spin", 3) is None
    assert client.ask("nobody", "k", "spin", 3) is None


def test_a_page_that_leaves_is_told_to_the_process_that_runs_its_loop(door):
    owner = Owner()
    door.client("runs-it", owner)
    client = door.client()
    client.forward("nobody", "k")
    client.forward("runs-it", "k")
    wait_until(lambda: owner.told == [("leave", "k")], 20, "it to be told")


def test_what_a_hub_logs_is_in_the_log_of_the_process_it_tells(door, caplog):
    client = door.client("me")
    del client
    connection = door.control.members["me"]
    record = {"say": "record", "name": "afterload.hub", "level": logging.WARNING, "text": "it is 50 % full"}
    door.in_poller(lambda: connection.say(record))
    wait_until(lambda: "it is 50 % full" in caplog.messages, 20, "the record")


def test_a_process_whose_arguments_are_no_text_is_let_in_all_the_same(door, monkeypatch):
    """Linux has bytes there, such as a file's name in latin-1."""
    monkeypatch.setattr("sys.argv", ["gunicorn", "/srv/caf\udce9/app.py"])
    client = door.client()
    (process,) = client.stats()["processes"]
    assert process["title"].startswith("gunicorn /srv/caf")


def test_a_viewer_that_is_handed_over_by_one_process_is_served_with_what_another_publishes(
    door: Door,
) -> None:
    first, second = door.client(), door.client()
    pairs = [socket.socketpair() for _ in range(20)]
    for ours, _ in pairs:
        first.adopt(ours, Follow(None, ("news",)))
    wait_until(lambda: second.viewers("news") == 20, 20, "all to be held")
    second.publish("news", PATCH)
    for _, theirs in pairs:
        theirs.settimeout(20)
        until(theirs, b'"#a","1"')
        theirs.close()
