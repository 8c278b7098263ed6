"""How a group of documents is told what is shown where scripts do not run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from afterload import append, text
from afterload.log import Log
from afterload.noscript import Shown
from afterload.wire import document
from tests.hub.test_hub import Bench, Peer

PAGE = '<p id="n">-</p><ul id="rows"></ul>'


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(heartbeat=20)
    yield made
    made.close()


def connect(bench: Bench, *names: str, page: str = PAGE, log: Log | None = None, buffer: int = 0) -> Peer:
    shown = Shown(page, None, None, log is None, bench.clock)
    if log is None:
        shown = shown.shared()
    return bench.connect(*names, wire=document, shown=shown, log=log, buffer=buffer)


def read(peer: Peer, most: int = 1 << 20) -> str:
    data = b""
    while len(data) < most:
        try:
            got = peer.sock.recv(most - len(data))
        except BlockingIOError:
            break
        if not got:
            break
        data += got
    return data.decode()


def shows(said: str, name: str = "n") -> list[str]:
    """The texts that an element has been given, one after the other."""
    found = re.findall(rf'#{name}:not\(\[hidden\]\)::before{{content:"([^"]*)"}}', said)
    assert found == re.findall(rf'<template for="{name}"><\?start name="{name}">(.*?)<\?end>', said)
    return found


def test_a_burst_is_said_twice_a_second_and_its_last_value_soon(bench: Bench) -> None:
    peer = connect(bench, "a")
    for i in range(100):
        bench.publish("a", text("#n", i))
        bench.wait(0.02)
    bench.wait(1.1)
    said = read(peer)
    assert said.count('["patch"') > 50
    assert 4 <= len(shows(said)) <= 6
    assert shows(said)[-1] == "99"
    bench.wait(3)
    assert read(peer) == ""


def test_a_silent_document_has_a_heartbeat_every_five_seconds(bench: Bench) -> None:
    peer = connect(bench, "a")
    assert '"heartbeat":5.0' in read(peer)
    bench.wait(16.5)
    assert read(peer).count('["ping",{}]') == 3


def test_all_pages_made_alike_are_one_group_and_others_are_not(bench: Bench) -> None:
    peers = [connect(bench, "a") for _ in range(3)]
    other = connect(bench, "a", page='<h1 id="n">-</h1>')
    assert sorted(len(group) for group in bench.hub.fanout.groups.values()) == [1, 3]
    bench.publish("a", text("#n", "1"))
    bench.wait(0.1)
    assert {said for said in map(shows, map(read, peers)) for said in said} == {"1"}
    assert shows(read(other)) == ["1"]


def test_one_who_joins_is_told_what_is_there(bench: Bench) -> None:
    connect(bench, "a")
    bench.publish("a", text("#n", "1"))
    bench.wait(0.1)
    bench.publish("a", text("#n", "2"))
    joined = connect(bench, "a")
    bench.wait(1.5)
    assert shows(read(joined))[-1] == "2"


def test_the_first_of_a_group_is_told_what_the_channel_holds(bench: Bench) -> None:
    bench.publish("a", text("#n", "1"), append("#rows", "x"))
    peer = connect(bench, "a")
    said = read(peer)
    assert shows(said) == ["1"]
    assert "#rows" not in said.partition("<noscript>")[2]


def test_one_who_was_slow_is_told_what_it_has_missed(bench: Bench) -> None:
    slow, quick = connect(bench, "a", buffer=4096), connect(bench, "a")
    for i in range(100):
        bench.publish("a", text("#n", f"{i}"), text("#rows", "x" * 1000))
        bench.wait(0.1)
        read(quick)
    said = ""
    for _ in range(100):
        bench.wait(0.1)
        said += read(slow, 4000)
    assert shows(said)[-1] == "99"


def test_a_slow_one_holds_up_nobody_and_misses_nothing(bench: Bench) -> None:
    slow, quick = connect(bench, "a", buffer=4096), connect(bench, "a")
    for i in range(4):
        bench.publish("a", text("#n", f"{i}"), text("#rows", "x" * 3000))
        bench.wait(0.05)
    bench.wait(3)
    assert shows(read(quick))[-1] == "3"
    said = ""
    for _ in range(30):
        said += read(slow)
        bench.wait(0.1)
    assert shows(said)[-1] == "3"


def test_what_others_publish_is_no_reason_to_say_it_again(bench: Bench) -> None:
    peer = connect(bench, "a")
    bench.publish("a", text("#n", "1"))
    bench.wait(1)
    read(peer)
    for _ in range(5):
        bench.publish("b", text("#n", "2"))
        connect(bench, "a")
        bench.wait(0.1)
    assert read(peer) == ""


def test_a_failure_there_costs_nobody_the_rest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, events = connect(bench, "a"), bench.connect("a")
    monkeypatch.setattr(Shown, "_apply", lambda *_: 1 / 0)
    bench.publish("a", text("#n", "1"))
    bench.wait(0.1)
    assert '"#n","1"' in read(peer)
    assert len(events.read()) == 1
    assert bench.hub.stats()["errors"] == 1
    late = connect(bench, "a")
    assert '"#n","1"' in read(late)


def test_a_page_of_channels_is_asked_for_again_when_the_hub_goes_away(bench: Bench) -> None:
    peer = connect(bench, "a")
    log = bench.hub.new_log("own")
    log.begin("~")
    own = connect(bench, "~", log=log)
    bench.hub.say_bye()
    assert 'http-equiv="refresh"' in read(peer)
    assert "refresh" not in read(own)


def test_a_page_that_is_revoked_is_asked_for_again(bench: Bench) -> None:
    peer = connect(bench, "a")
    read(peer)
    bench.hub.revoke(("a",), None)
    bench.turn()
    said = read(peer)
    assert 0 < said.index('["bye"') < said.index('http-equiv="refresh"')


def test_a_page_of_its_own_is_told_all_before_its_end(bench: Bench) -> None:
    log = bench.hub.new_log("own")
    log.begin("~")
    peer = connect(bench, "~", log=log)
    for i in range(3):
        bench.hub.publish("~", [text("#n", i), append("#rows", f"[{i}]")], log)
        bench.wait(0.05)
    bench.hub.finish("~", "done", log=log)
    bench.wait(0.1)
    said = read(peer)
    assert shows(said)[-1] == "2"
    assert said.index('["end"') < said.rindex("<template")
    assert '::after{content:"[0][1][2]"}' in said
